// What LoRA adds to a projection: y += scaling dropout(x) . A^T . B^T with A [r, in] and B [out, r], and its gradients,
// as in ../lora.h. Sums are made by the products themselves, onto what is there.
#include "../shapes.h"
#include "dropout.cuh"
#include "projection.cuh"

// dropout(x) [rows, in], for as long as this lives; x itself where nothing is dropped.
struct LoraDropped {
    const Scratch scratch;
    const float* values;
    LoraDropped(const Lora& s, const float* x) : scratch(s.threshold ? s.rows * s.in : 1), values(x) {
        if (!s.threshold) return;
        dropout(x, scratch.values, s.rows * s.in, s.seed, s.threshold, s.keep_scale);
        values = scratch.values;
    }
};

// low [rows, r] = scaling dropout(x) . A^T, which the gradient by B needs, too
static void lora_low(const Lora& s, const float* x, float* low) {
    const LoraDropped dropped(s, x);
    sgemm('N', 'T', s.rows, s.r, s.in, s.scaling, dropped.values, s.in, s.a, s.in, 0.0f, low, s.r);
}

// y = x . weight + bias + low . B^T
static void lora_forward(const Lora& s, const float* x, const float* weight, const float* bias, const float* low,
                         float* y) {
    projection(x, weight, bias, y, s.rows, s.in, s.out);
    sgemm('N', 'T', s.rows, s.out, s.r, 1.0f, low, s.r, s.b, s.r, 1.0f, y, s.out);
}

// dlow [rows, r] = scaling dy . B; db [out, r] = dy^T . low; da [r, in] = dlow^T . dropout(x)
static void lora_backward(const Lora& s, const float* x, const float* dy, const float* low, float* dlow, float* da,
                          float* db) {
    const LoraDropped dropped(s, x);
    sgemm('N', 'N', s.rows, s.r, s.out, s.scaling, dy, s.out, s.b, s.r, 0.0f, dlow, s.r);
    sgemm('T', 'N', s.out, s.r, s.rows, 1.0f, dy, s.out, low, s.r, 0.0f, db, s.r);
    sgemm('T', 'N', s.r, s.in, s.rows, 1.0f, dlow, s.r, dropped.values, s.in, 0.0f, da, s.in);
}

// dx = dy . weight^T + dropout'(dlow . A)
static void lora_by_input(const Lora& s, const float* dy, const float* weight, const float* dlow, float* dx) {
    sgemm('N', 'N', s.rows, s.in, s.r, 1.0f, dlow, s.r, s.a, s.in, 0.0f, dx, s.in);
    if (s.threshold) dropout(dx, dx, s.rows * s.in, s.seed, s.threshold, s.keep_scale);
    projection_by_input(dy, weight, dx, s.rows, s.in, s.out, 1.0f);
}

// y = factor x + bias, for each column
struct Scaled {
    const float *factor, *bias;
    long out;
    __device__ float operator()(long i, float x) const { return x * factor[i % out] + bias[i % out]; }
};

static void lora_scaled(const float* x, const float* factor, const float* bias, float* y, long rows, long out) {
    elementwise(Scaled{factor, bias, out}, rows * out, y, x);
}

// A thread has a column: neighbours read neighbours.
static __global__ void lora_scaled_backward_kernel(const float* dy, const float* y, const float* factor,
                                                   const float* bias, float* dx, float* dfactor, long rows, long out) {
    const long j = (long)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= out) return;
    double sum = 0;
    for (long i = j; i < rows * out; i += out) {
        sum += dy[i] * (y[i] - bias[j]);
        dx[i] = dy[i] * factor[j];
    }
    dfactor[j] = (float)(sum / factor[j]);
}

// dx = factor dy; dfactor [out] = the sums of dy x, with x found again as (y - bias) / factor
static void lora_scaled_backward(const float* dy, const float* y, const float* factor, const float* bias, float* dx,
                                 float* dfactor, long rows, long out) {
    const long threads = 64;
    lora_scaled_backward_kernel<<<divided_up(out, threads), threads>>>(dy, y, factor, bias, dx, dfactor, rows, out);
}
