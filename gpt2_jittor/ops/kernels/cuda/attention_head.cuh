// What the kernels of attention know of a head: where its arrays lie, who sees whom, which weights are dropped.
#include "../random.h"
#include "../shapes.h"
#include "tiles.cuh"

static const long WIDEST_HEAD = 128;  // ops/attention.py knows it

// The item of a block: tile `number` of head `head` of sequence `batch`.
struct Place {
    long head_of_all, batch, head;
    int number;
    __device__ Place(const AttentionShape& s, int tiles)
        : head_of_all(blockIdx.x / tiles), batch(head_of_all / s.heads), head(head_of_all % s.heads),
          number(blockIdx.x % tiles) {}
};

// A head's part of an array of `count` rows in each sequence
template <class Float>
static __device__ inline Matrix<Float> of_head(Float* all, long stride, long count, const Place& at,
                                               const AttentionShape& s) {
    return {all + at.batch * count * stride + at.head * s.dim, stride, count, (int)s.dim};
}

// What a query's weight on a key is multiplied by.
static __device__ inline float weight_factor(const AttentionShape& s, const Place& at, long query, long key) {
    if (!s.threshold) return 1.0f;
    const long index = (at.head_of_all * s.queries + query) * s.keys + key;
    return dropout_factor(s.seed, (uint32_t)index, s.threshold, s.keep_scale);
}

static __device__ inline bool sees(const AttentionShape& s, const int* mask, long query, long key) {
    return query < s.queries && key < s.keys && key <= query + s.past && mask[key] != 0;
}
