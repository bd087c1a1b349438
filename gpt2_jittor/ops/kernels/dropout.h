// y = x * mask / (1 - p); the gradient is the same function of dy.
static void dropout(const float* x, float* y, long n, uint32_t seed, uint32_t threshold, float scale) {
    #pragma omp parallel for simd
    for (long i = 0; i < n; i++) y[i] = x[i] * dropout_factor(seed, (uint32_t)i, threshold, scale);
}

// z = x + dropout(y)
static void add_dropped(const float* x, const float* y, float* z, long n, uint32_t seed, uint32_t threshold,
                        float scale) {
    #pragma omp parallel for simd
    for (long i = 0; i < n; i++) z[i] = x[i] + y[i] * dropout_factor(seed, (uint32_t)i, threshold, scale);
}
