#include <cstdint>
#include <cstring>

// bfloat16, the upper half of a float.
struct Bf16 {
    uint16_t bits;
    operator float() const {
        const uint32_t whole = (uint32_t)bits << 16;
        float value;
        std::memcpy(&value, &whole, sizeof value);
        return value;
    }
};

// out = x as bfloat16, the nearest, ties to even; NaN stays NaN.
static void round_to_halves(const float* x, long n, Bf16* out) {
    #pragma omp parallel for
    for (long i = 0; i < n; i++) {
        uint32_t bits;
        std::memcpy(&bits, x + i, 4);
        const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
        out[i].bits = is_nan ? 0x7fff : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    }
}
