// GPT-2's GELU, 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), and its derivative.
// tanh is written with exp, which every C library offers in vector form.
#include <algorithm>
#include <cmath>

static inline float tanh_by_exp(float u) { return 1.0f - 2.0f / (std::exp(2.0f * std::min(u, 40.0f)) + 1.0f); }

static void gelu_new_forward(const float* x, float* y, long n) {
    #pragma omp parallel for simd
    for (long i = 0; i < n; i++) {
        const float u = 0.7978845608028654f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        y[i] = 0.5f * x[i] * (1.0f + tanh_by_exp(u));
    }
}

static void gelu_new_backward(const float* x, const float* dy, float* dx, long n) {
    #pragma omp parallel for simd
    for (long i = 0; i < n; i++) {
        const float u = 0.7978845608028654f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        const float t = tanh_by_exp(u);
        const float du = 0.7978845608028654f * (1.0f + 3.0f * 0.044715f * x[i] * x[i]);
        dx[i] = dy[i] * (0.5f * (1.0f + t) + 0.5f * x[i] * (1.0f - t * t) * du);
    }
}
