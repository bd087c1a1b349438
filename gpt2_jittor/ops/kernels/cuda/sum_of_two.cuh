// x + y as an operator of its own: Jittor would put sums off until all of their terms are there, and keep the terms.
#include "elementwise.cuh"

struct SumOfTwo {
    __device__ float operator()(long, float x, float y) const { return x + y; }
};

static void sum_of_two(const float* x, const float* y, float* z, long n) { elementwise(SumOfTwo(), n, z, x, y); }
