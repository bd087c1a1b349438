// Floats as the bits that they are.
#include <cstdint>
#include <cstring>

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

// |x| as an integer, ordered as the numbers are; NaN is above all, which -Ofast does not let floats say
static inline uint32_t magnitude(float x) { return bits_of(x) & 0x7fffffff; }

// The float of such a magnitude; NaN where that is not finite.
static inline float finite_or_nan(uint32_t magnitude) {
    const uint32_t bits = magnitude >= 0x7f800000 ? 0x7fc00000 : magnitude;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
