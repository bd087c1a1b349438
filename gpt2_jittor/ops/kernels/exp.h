// exp(x) in float32 for loops that the compiler turns into vectors: inlined, without the C library's slow path for
// results that underflow, which half of a causal softmax would take. Relative error below 3e-7 (tests/ops/test_ops.py).
#include <cmath>
#include <cstdint>
#include <cstring>

// x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) by its Taylor series to r^6, whose rest is below 2e-8; times 2^n. Below
// -87 the result would be subnormal, and is 0; above 88 it is exp(88).
static inline float vector_exp(float x) {
    const float bounded = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    const float n = std::nearbyint(bounded * 1.44269504f), r = bounded - n * 0.693147181f;
    const float p = 1 + r * (1 + r * (1 / 2.0f + r * (1 / 6.0f + r * (1 / 24.0f + r * (1 / 120.0f + r / 720.0f)))));
    const int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return x < -87.0f ? 0.0f : p * power;
}
