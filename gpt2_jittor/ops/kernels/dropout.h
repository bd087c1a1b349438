// y = x * mask / (1 - p); the gradient is the same function of dy.
static void dropout_forward(const float* x, float* y, long n, uint32_t seed, uint32_t threshold, float scale) {
    #pragma omp parallel for simd
    for (long i = 0; i < n; i++) y[i] = x[i] * dropout_factor(seed, (uint32_t)i, threshold, scale);
}
