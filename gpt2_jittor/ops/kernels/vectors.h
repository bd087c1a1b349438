// Sixteen floats at a time, as GCC's own vector type: one register with AVX-512, two with AVX2, four with SSE.
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef float floats __attribute__((vector_size(64), aligned(4)));
typedef float half_floats __attribute__((vector_size(32), aligned(4)));
typedef float quarter_floats __attribute__((vector_size(16), aligned(4)));

static const long LANES = 16;

static inline floats load(const float* p) { return *(const floats*)p; }

static inline floats load(const int8_t* p) {
#ifdef __AVX512F__  // GCC makes four conversions and a detour through memory of the loop below
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#else
    float wide[LANES];
    for (long i = 0; i < LANES; i++) wide[i] = p[i];
    return load(wide);
#endif
}

static inline void store(float* p, floats v) { *(floats*)p = v; }

static inline float sum_of(floats v) {
    half_floats halves[2];
    std::memcpy(halves, &v, sizeof v);
    const half_floats half = halves[0] + halves[1];
    quarter_floats quarters[2];
    std::memcpy(quarters, &half, sizeof half);
    const quarter_floats q = quarters[0] + quarters[1];
    return (q[0] + q[2]) + (q[1] + q[3]);
}
