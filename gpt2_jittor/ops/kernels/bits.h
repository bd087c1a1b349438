// Floats as the bits that they are.
#include <cstdint>
#include <cstring>

// |x| as an integer, ordered as the numbers are; NaN is above all, which -Ofast does not let floats say
static inline uint32_t magnitude(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits & 0x7fffffff;
}

static inline float from_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
