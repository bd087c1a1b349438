// Functions of two-byte floats that NVIDIA's headers have for the device alone: computed in float, rounded once.
// EMULATION_HALF_FUNCTIONS(type, pair of them, from float, to float, from pair of floats, to pair of floats)
#pragma once

#include <cmath>

#define EMULATION_HALF_FUNCTION(T, T2, narrow, wide, narrow2, wide2, name, formula) \
    inline T h##name(T h) {                                                         \
        const float x = wide(h);                                                    \
        return narrow(formula);                                                     \
    }                                                                               \
    inline T2 h2##name(T2 h) {                                                      \
        const float2 pair = wide2(h);                                               \
        float x = pair.x;                                                           \
        const float first = formula;                                                \
        x = pair.y;                                                                 \
        return narrow2(first, formula);                                             \
    }

#define EMULATION_HALF_FUNCTIONS(...)                                     \
    EMULATION_HALF_FUNCTION(__VA_ARGS__, exp, ::expf(x))                  \
    EMULATION_HALF_FUNCTION(__VA_ARGS__, exp2, exp2f(x))                  \
    EMULATION_HALF_FUNCTION(__VA_ARGS__, exp10, exp2f(x * 3.32192809f))   \
    EMULATION_HALF_FUNCTION(__VA_ARGS__, log, ::logf(x))                  \
    EMULATION_HALF_FUNCTION(__VA_ARGS__, log2, ::log2f(x))                \
    EMULATION_HALF_FUNCTION(__VA_ARGS__, log10, ::log10f(x))              \
    EMULATION_HALF_FUNCTION(__VA_ARGS__, sin, ::sinf(x))                  \
    EMULATION_HALF_FUNCTION(__VA_ARGS__, cos, ::cosf(x))                  \
    EMULATION_HALF_FUNCTION(__VA_ARGS__, sqrt, sqrtf(x))                  \
    EMULATION_HALF_FUNCTION(__VA_ARGS__, rsqrt, 1 / sqrtf(x))             \
    EMULATION_HALF_FUNCTION(__VA_ARGS__, rcp, 1 / x)                      \
    EMULATION_HALF_FUNCTION(__VA_ARGS__, floor, floorf(x))                \
    EMULATION_HALF_FUNCTION(__VA_ARGS__, ceil, ceilf(x))                  \
    EMULATION_HALF_FUNCTION(__VA_ARGS__, trunc, truncf(x))                \
    EMULATION_HALF_FUNCTION(__VA_ARGS__, rint, rintf(x))                  \
    EMULATION_HALF_ARITHMETIC(__VA_ARGS__)

#define EMULATION_HALF_ARITHMETIC(T, T2, narrow, wide, narrow2, wide2)                                         \
    inline T __hfma(T a, T b, T c) { return narrow(fmaf(wide(a), wide(b), wide(c))); }                         \
    inline T2 __hfma2(T2 a, T2 b, T2 c) {                                                                      \
        const float2 x = wide2(a), y = wide2(b), z = wide2(c);                                                 \
        return narrow2(fmaf(x.x, y.x, z.x), fmaf(x.y, y.y, z.y));                                              \
    }                                                                                                          \
    inline T atomicAdd(T* address, T value) {                                                                  \
        const T old = *address;                                                                                \
        *address = narrow(wide(old) + wide(value));                                                            \
        return old;                                                                                            \
    }                                                                                                          \
    inline T2 atomicAdd(T2* address, T2 value) {                                                               \
        const T2 old = *address;                                                                               \
        const float2 x = wide2(old), y = wide2(value);                                                         \
        *address = narrow2(x.x + y.x, x.y + y.y);                                                              \
        return old;                                                                                            \
    }
