// y = x . weight + bias with a Conv1D's weight [in, out], and its gradients, as in ../projection.h.
#include "cublas.cuh"

static __global__ void fill_rows_kernel(const float* bias, float* y, long n, long columns) {
    const long threads = (long)gridDim.x * blockDim.x;
    for (long i = (long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += threads) y[i] = bias[i % columns];
}

// y [rows, out] = x . weight + bias: the product is added to rows of the bias, or to nothing where it is null
static void projection(const float* x, const float* weight, const float* bias, float* y, long rows, long in,
                       long out) {
    const long n = rows * out;
    if (bias) fill_rows_kernel<<<std::min(MOST_BLOCKS, divided_up(n, THREADS)), THREADS>>>(bias, y, n, out);
    sgemm('N', 'N', rows, out, in, 1.0f, x, in, weight, out, bias != nullptr, y, out);
}

// dx = beta dx + dy . weight^T
static void projection_by_input(const float* dy, const float* weight, float* dx, long rows, long in, long out,
                                float beta) {
    sgemm('N', 'T', rows, in, out, 1.0f, dy, out, weight, out, beta, dx, in);
}

// dweight = x^T . dy
static void projection_by_weight(const float* x, const float* dy, float* dweight, long rows, long in, long out) {
    sgemm('T', 'N', in, out, rows, 1.0f, x, in, dy, out, 0.0f, dweight, out);
}
