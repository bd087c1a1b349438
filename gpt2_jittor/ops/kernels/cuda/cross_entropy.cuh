// The cross-entropy of rows of logits and its gradient by them, a block of threads for each row.
// Bytes, of a row of V logits: the loss alone 4 V; with the gradient 12 V, of which the second
// reading finds in the cache what it holds; the gradient from what the loss kept, 8 V.
#include "common.cuh"

static const float LOWEST = -1e30f;  // not -inf: the kernels are compiled with --use_fast_math

// f(i, pack) for the whole of a row: four floats at a time between its first and its last multiple of 16 bytes.
template <class F> static __device__ inline void over_row(const float* row, long n, bool fours, F f) {
    const long skip = fours ? min((long)((16 - (uintptr_t)row % 16) % 16 / sizeof(float)), n) : n;
    const long packed = skip + (n - skip) / 4 * 4;
    for (long i = threadIdx.x; i < skip; i += blockDim.x) f(i, load<1>(row + i));
    for (long i = skip + 4 * threadIdx.x; i < packed; i += 4 * blockDim.x) f(i, load<4>(row + i));
    for (long i = packed + threadIdx.x; i < n; i += blockDim.x) f(i, load<1>(row + i));
}

// The largest of some logits, and the sum of the exponentials of what they are below it.
struct Softmax {
    float top, sum;

    template <int N> __device__ void take(const Pack<N>& logits) {
        float highest = top;
        for (int k = 0; k < N; k++) highest = logits.v[k] > highest ? logits.v[k] : highest;
        sum *= expf(top - highest);
        for (int k = 0; k < N; k++) sum += expf(logits.v[k] - highest);
        top = highest;
    }

    __device__ void merge(float other_top, float other_sum) {
        const float highest = other_top > top ? other_top : top;
        sum = sum * expf(top - highest) + other_sum * expf(other_top - highest);
        top = highest;
    }

    __device__ void merge_lanes() {
        for (int other = WARP / 2; other; other /= 2) {
            const float other_top = __shfl_xor_sync(ALL_LANES, top, other);
            const float other_sum = __shfl_xor_sync(ALL_LANES, sum, other);
            merge(other_top, other_sum);
        }
    }
};

// A block's row, in all of its threads.
static __device__ inline Softmax softmax_of_row(const float* row, long vocab) {
    __shared__ float tops[THREADS / WARP], sums[THREADS / WARP];
    Softmax own = {LOWEST, 0.0f};
    over_row(row, vocab, true, [&](long, const auto& logits) { own.take(logits); });
    own.merge_lanes();
    if (threadIdx.x % WARP == 0) {
        tops[threadIdx.x / WARP] = own.top;
        sums[threadIdx.x / WARP] = own.sum;
    }
    __syncthreads();
    own = {tops[0], sums[0]};
    for (int warp = 1; warp < THREADS / WARP; warp++) own.merge(tops[warp], sums[warp]);
    return own;
}

// gradient = (softmax - onehot) * scale
static __device__ inline void gradient_of_row(const float* row, long vocab, long target, float top, float sum,
                                              float scale, float* gradient) {
    const float norm = scale / sum;
    const bool fours = (uintptr_t)row % 16 == (uintptr_t)gradient % 16;
    over_row(row, vocab, fours, [=](long i, auto logits) {
        for (int k = 0; k < (int)(sizeof logits / sizeof(float)); k++)
            logits.v[k] = expf(logits.v[k] - top) * norm - (i + k == target ? scale : 0.0f);
        store(gradient + i, logits);
    });
}

static __global__ void cross_entropy_rows(const float* logits, const int* targets, float* loss, float* stats,
                                          float* gradient, long vocab) {
    const long row = blockIdx.x;
    logits += row * vocab;
    const Softmax all = softmax_of_row(logits, vocab);
    if (threadIdx.x == 0) {
        // the difference first: in a log-sum-exp the larger would take the digits of the smaller
        const volatile float below_top = logits[targets[row]] - all.top;
        loss[row] = logf(all.sum) - below_top;
        stats[2 * row] = all.top;
        stats[2 * row + 1] = all.sum;
    }
    if (gradient) gradient_of_row(logits, vocab, targets[row], all.top, all.sum, 1.0f, gradient + row * vocab);
}

// loss [rows]; stats [rows, 2]: the largest logit, the sum of exponentials; gradient [rows, vocab] of each row's loss
// by its logits, or null.
static void cross_entropy(const float* logits, const int* targets, float* loss, float* stats, float* gradient,
                          long rows, long vocab) {
    cross_entropy_rows<<<rows, THREADS>>>(logits, targets, loss, stats, gradient, vocab);
}

static __global__ void cross_entropy_gradient_rows(const float* logits, const int* targets, const float* stats,
                                                   const float* dloss, float* gradient, long vocab) {
    const long row = blockIdx.x;
    gradient_of_row(logits + row * vocab, vocab, targets[row], stats[2 * row], stats[2 * row + 1], dloss[row],
                    gradient + row * vocab);
}

// gradient [rows, vocab] = (softmax - onehot) dloss, from the logits and what `cross_entropy` kept of them
static void cross_entropy_gradient(const float* logits, const int* targets, const float* stats, const float* dloss,
                                   float* gradient, long rows, long vocab) {
    cross_entropy_gradient_rows<<<rows, THREADS>>>(logits, targets, stats, dloss, gradient, vocab);
}
