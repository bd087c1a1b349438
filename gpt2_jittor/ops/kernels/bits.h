// Floats as the bits that they are. The CPU and CUDA read the same.
#include <cstdint>
#include <cstring>

#ifndef __device__  // not nvcc
#define __device__
#endif

static __device__ inline uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

static __device__ inline float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// |x| as an integer, ordered as the numbers are; NaN is above all, which -Ofast does not let floats say
static __device__ inline uint32_t magnitude(float x) { return bits_of(x) & 0x7fffffffu; }

// The float of such a magnitude; NaN where that is not finite.
static __device__ inline float finite_or_nan(uint32_t magnitude) {
    return float_of(magnitude >= 0x7f800000u ? 0x7fc00000u : magnitude);
}
