// Attention of one new token of each row over all of its tokens, in a KVCache: a block for each row and head. It first
// puts the new key and value where the cache has a place for them.
// Bytes, of a row and head of T tokens of D floats: 8 T D; scores exist in shared memory alone.
#include "../shapes.h"
#include "common.cuh"

static const int ATTENDING_WARPS = 16;
static const float HIDDEN_SCORE = -1e30f;  // softmax turns it into 0; not -inf: compiled with --use_fast_math

// qkv [rows, 3 width] without its bias [3 width], keys and values [slots, capacity, width] -> out [rows, width]
static __global__ void attend_rows(Step s, const float* scale, const float* qkv, const float* bias, float* keys,
                                   float* values, float* out) {
    extern __shared__ float shared[];
    const long dim = s.width / s.heads, row = blockIdx.x / s.heads, at = blockIdx.x % s.heads * dim;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float *q = shared, *parts = q + dim, *scores = parts + ATTENDING_WARPS * dim;
    const int* slots = s.table + row * s.tokens;
    const auto place = [&](long j) { return (slots[j] * s.capacity + s.offset + j) * s.width + at; };
    const long last = place(s.tokens - 1);
    qkv += row * 3 * s.width + at;
    bias += at;
    for (long d = threadIdx.x; d < dim; d += blockDim.x) {
        q[d] = qkv[d] + bias[d];
        keys[last + d] = qkv[s.width + d] + bias[s.width + d];
        values[last + d] = qkv[2 * s.width + d] + bias[2 * s.width + d];
    }
    __syncthreads();
    for (long j = warp; j < s.tokens; j += ATTENDING_WARPS) {  // a warp for each token
        float score = 0;
        if (slots[j] >= 0)
            for (long d = lane; d < dim; d += WARP) score += q[d] * keys[place(j) + d];
        score = warp_sum(score);
        if (lane == 0) scores[j] = slots[j] < 0 ? HIDDEN_SCORE : score * scale[0];
    }
    __syncthreads();
    float top = HIDDEN_SCORE, sum = 0;  // of all tokens, in each warp
    for (long j = lane; j < s.tokens; j += WARP) top = scores[j] > top ? scores[j] : top;
    for (int other = WARP / 2; other; other /= 2) {
        const float theirs = __shfl_xor_sync(ALL_LANES, top, other);
        top = theirs > top ? theirs : top;
    }
    for (long j = lane; j < s.tokens; j += WARP) sum += expf(scores[j] - top);
    sum = warp_sum(sum);
    for (long d = lane; d < dim; d += WARP) {
        float part = 0;
        for (long j = warp; j < s.tokens; j += ATTENDING_WARPS)
            if (slots[j] >= 0) part += expf(scores[j] - top) * values[place(j) + d];
        parts[warp * dim + d] = part;
    }
    __syncthreads();
    for (long d = threadIdx.x; d < dim; d += blockDim.x) {
        float mixed = 0;
        for (int w = 0; w < ATTENDING_WARPS; w++) mixed += parts[w * dim + d];
        out[row * s.width + at + d] = mixed / sum;
    }
}

static void attend(const Step& s, const float* scale, const float* qkv, const float* bias, float* keys, float* values,
                   float* out) {
    const size_t floats = (1 + ATTENDING_WARPS) * (s.width / s.heads) + s.tokens;  // ops/decode_step.py knows it
    attend_rows<<<s.rows * s.heads, ATTENDING_WARPS * WARP, floats * sizeof(float)>>>(s, scale, qkv, bias, keys,
                                                                                       values, out);
}
