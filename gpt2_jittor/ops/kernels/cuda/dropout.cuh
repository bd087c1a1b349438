// Dropout, alone and onto a residual stream, by the generator of ../random.h: the masks of the CPU, bit for bit.
// Bytes an element: 8 alone (forward and backward), 12 onto a stream; no mask.
#include "../random.h"
#include "elementwise.cuh"

struct Dropout {
    uint32_t seed, threshold;
    float scale;
    __device__ float operator()(long i, float x) const {
        return x * dropout_factor(seed, (uint32_t)i, threshold, scale);
    }
};

struct AddDropped {
    Dropout dropped;
    __device__ float operator()(long i, float x, float y) const { return x + dropped(i, y); }
};

static void dropout(const float* x, float* y, long n, uint32_t seed, uint32_t threshold, float scale) {
    elementwise(Dropout{seed, threshold, scale}, n, y, x);
}

// z = x + dropout(y)
static void add_dropped(const float* x, const float* y, float* z, long n, uint32_t seed, uint32_t threshold,
                        float scale) {
    elementwise(AddDropped{{seed, threshold, scale}}, n, z, x, y);
}
