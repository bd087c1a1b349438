// As many floats at a time as a register of this processor holds, as GCC's own vector type: 16 with AVX-512, 8 with AVX2,
// 8 in two registers with SSE.
#include <cstdint>
#include <cstring>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
static const long LANES = 16;
static const int SUMS = 4;  // vectors of sums that stay in registers for each of TILE rows: there are 32 registers
#else
static const long LANES = 8;
static const int SUMS = 2;  // of 16 registers
#endif

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

typedef float floats __attribute__((vector_size(LANES * 4), aligned(4)));
typedef float quarter_floats __attribute__((vector_size(16), aligned(4)));

static inline floats load(const float* p) { return *(const floats*)p; }

static inline floats load(const int8_t* p) {
#if defined(__AVX512F__)  // GCC makes four conversions and a detour through memory of the loop below
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
    return (floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
    float wide[LANES];
    for (long i = 0; i < LANES; i++) wide[i] = p[i];
    return load(wide);
#endif
}

static inline floats load(const Bf16* p) {
#if defined(__AVX512F__)
    return (floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#elif defined(__AVX2__)
    return (floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
#else
    float wide[LANES];
    for (long i = 0; i < LANES; i++) wide[i] = p[i];
    return load(wide);
#endif
}

static inline void store(float* p, floats v) { *(floats*)p = v; }

static inline float sum_of(floats v) {
    quarter_floats quarters[LANES / 4], q = quarter_floats{};
    std::memcpy(quarters, &v, sizeof v);
    for (long i = 0; i < LANES / 4; i++) q += quarters[i];
    return (q[0] + q[2]) + (q[1] + q[3]);
}
