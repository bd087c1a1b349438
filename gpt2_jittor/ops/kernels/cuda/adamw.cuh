// One AdamW update of many tensors, and the sum of squares of many, each one launch for 32 of them: see ops/adamw.py
// for the formulas. Bytes an element: 28 the update (4 numbers read, 3 written), 4 the sum.
#include <vector>

#include "common.cuh"

struct Tensor {
    const float *parameter, *gradient, *first, *second;
    float *new_parameter, *new_first, *new_second;
    long n;
    float keep;  // what weight decay leaves of the parameter
};

struct Array {
    const float* values;
    long n;
};

static const int MOST_TENSORS = 32;         // in one launch: they travel as its arguments, of which 4 KiB are allowed
static const long PIECE = 4 * THREADS * 4;  // what a block works on

// Tensors, and which block begins with which: block b works on piece b - first_block[t] of tensor t.
template <class T> struct Several {
    T tensors[MOST_TENSORS];
    int first_block[MOST_TENSORS + 1];
    int count;

    __device__ int of_block(int block) const {
        int t = 0;
        while (block >= first_block[t + 1]) t++;
        return t;
    }
};

// The tensors from `start` on, as many as fit into one launch.
template <class T> static Several<T> several(const std::vector<T>& tensors, size_t start) {
    Several<T> some;
    some.count = (int)std::min(tensors.size() - start, (size_t)MOST_TENSORS);
    some.first_block[0] = 0;
    for (int t = 0; t < some.count; t++) {
        some.tensors[t] = tensors[start + t];
        some.first_block[t + 1] = some.first_block[t] + (int)divided_up(some.tensors[t].n, PIECE);
    }
    return some;
}

struct Rates {
    float step_size, correction, beta1, beta2, eps;
};

template <int N> static __device__ inline void adamw_pack(const Tensor& t, const Rates& r, float factor, long i) {
    const Pack<N> gradient = load<N>(t.gradient + i);
    Pack<N> p = load<N>(t.parameter + i), m = load<N>(t.first + i), v = load<N>(t.second + i);
    for (int k = 0; k < N; k++) {
        const float g = gradient.v[k] * factor;
        m.v[k] = r.beta1 * m.v[k] + (1 - r.beta1) * g;
        v.v[k] = r.beta2 * v.v[k] + (1 - r.beta2) * g * g;
        p.v[k] = p.v[k] * t.keep - r.step_size * m.v[k] / (sqrtf(v.v[k]) * r.correction + r.eps);
    }
    store<N>(t.new_parameter + i, p);
    store<N>(t.new_first + i, m);
    store<N>(t.new_second + i, v);
}

static __global__ void adamw_kernel(Several<Tensor> some, const float* scale, Rates rates) {
    const int number = some.of_block(blockIdx.x);
    const Tensor& t = some.tensors[number];
    const long begin = (blockIdx.x - some.first_block[number]) * PIECE, end = min(begin + PIECE, t.n);
    const float factor = scale[0];
    const bool fours = in_fours(t.parameter) && in_fours(t.gradient) && in_fours(t.first) && in_fours(t.second) &&
                       in_fours(t.new_parameter) && in_fours(t.new_first) && in_fours(t.new_second);
    const long packed = fours ? begin + (end - begin) / 4 * 4 : begin;
    for (long i = begin + 4 * threadIdx.x; i < packed; i += 4 * blockDim.x) adamw_pack<4>(t, rates, factor, i);
    for (long i = packed + threadIdx.x; i < end; i += blockDim.x) adamw_pack<1>(t, rates, factor, i);
}

static void adamw(const std::vector<Tensor>& tensors, const float* scale, float step_size, float correction,
                  float beta1, float beta2, float eps) {
    for (size_t start = 0; start < tensors.size(); start += MOST_TENSORS) {
        const Several<Tensor> some = several(tensors, start);
        const Rates rates = {step_size, correction, beta1, beta2, eps};
        adamw_kernel<<<some.first_block[some.count], THREADS>>>(some, scale, rates);
    }
}

static __global__ void sum_of_squares_parts(Several<Array> some, float* parts) {
    const int number = some.of_block(blockIdx.x);
    const Array& array = some.tensors[number];
    const long begin = (blockIdx.x - some.first_block[number]) * PIECE, end = min(begin + PIECE, array.n);
    const long packed = in_fours(array.values) ? begin + (end - begin) / 4 * 4 : begin;
    float sum = 0;
    for (long i = begin + 4 * threadIdx.x; i < packed; i += 4 * blockDim.x) {
        const Pack<4> p = load<4>(array.values + i);
        for (int k = 0; k < 4; k++) sum += p.v[k] * p.v[k];
    }
    for (long i = packed + threadIdx.x; i < end; i += blockDim.x) sum += array.values[i] * array.values[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

static __global__ void sum_of_parts(const float* parts, long count, float* out) {
    float sum = 0;
    for (long i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[0] = sum;
}

// Blocks leave their sums, which one block adds up in a fixed order: the same bits on every run.
static void sum_of_squares(const std::vector<Array>& arrays, float* out) {
    long blocks = 0;
    for (const Array& array : arrays) blocks += divided_up(array.n, PIECE);
    const Scratch parts(blocks);
    float* next = parts.values;
    for (size_t start = 0; start < arrays.size(); start += MOST_TENSORS) {
        const Several<Array> some = several(arrays, start);
        sum_of_squares_parts<<<some.first_block[some.count], THREADS>>>(some, next);
        next += some.first_block[some.count];
    }
    sum_of_parts<<<1, THREADS>>>(parts.values, blocks, out);
}
