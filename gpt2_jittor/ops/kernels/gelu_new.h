// GPT-2's GELU, x s(u) with s(u) = 0.5 (1 + tanh(u)) = e / (e + 1), e = exp(2u), u = sqrt(2/pi) (x + 0.044715 x^3),
// and its derivative. Written with exp, and without differences of nearly equal numbers: -Ofast divides by
// estimates, and 1 - tanh^2 would be noise times x^3 where it should be 0. Needs exp.h.
#include <algorithm>

static const float STRAIGHT = 10.0f;  // beyond ± this the derivative is 1 or 0; x^3 times what rounding left would not be

static inline float gelu_exp(float x) {
    const float u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
    return vector_exp(2.0f * std::min(u, 20.0f));  // beyond, s(u) is 1
}

static inline float gelu_new_of(float x) {
    const float e = gelu_exp(x);
    return x * (e / (e + 1.0f));
}

// In place, within a thread.
static inline void gelu_new_row(float* x, long n) {
    #pragma omp simd
    for (long i = 0; i < n; i++) x[i] = gelu_new_of(x[i]);
}

static void gelu_new_forward(const float* x, float* y, long n) {
    #pragma omp parallel for simd
    for (long i = 0; i < n; i++) y[i] = gelu_new_of(x[i]);
}

static void gelu_new_backward(const float* x, const float* dy, float* dx, long n) {
    #pragma omp parallel for simd
    for (long i = 0; i < n; i++) {
        const float e = gelu_exp(x[i]), rest = 1.0f / (e + 1.0f), s = e * rest;  // rest = 1 - s
        const float near = x[i] > STRAIGHT ? STRAIGHT : x[i] < -STRAIGHT ? -STRAIGHT : x[i];
        const float du = 0.7978845608028654f * (1.0f + 3.0f * 0.044715f * near * near);
        dx[i] = dy[i] * (s + 2.0f * near * s * rest * du);
    }
}
