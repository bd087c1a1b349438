// As many floats at a time as a register of this processor holds, as GCC's own vector type: 16 with AVX-512, 8 with AVX2,
// 8 in two registers with SSE. After bfloat16.h.
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

typedef float floats __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint32_t words __attribute__((vector_size(LANES * 4), aligned(2), may_alias));
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

static inline void store(float* p, floats v) { *(floats*)p = v; }

// PAIR values as two vectors, one behind the other; of bfloat16 the even ones and the odd ones, which takes half of the
// instructions. `store_pair` puts values of such vectors in order; `arrange` puts those of x in such an order.
static const long PAIR = 2 * LANES;

template <class T>
static inline void load_pair(const T* p, floats* pair) {
    pair[0] = load(p);
    pair[1] = load(p + LANES);
}

static inline void load_pair(const Bf16* p, floats* pair) {
    const words both = *(const words*)p;
    pair[0] = (floats)(both << 16);
    pair[1] = (floats)(both & 0xffff0000u);
}

template <class T>
static inline void store_pair(const T*, float* p, const floats* pair) {
    store(p, pair[0]);
    store(p + LANES, pair[1]);
}

static inline void store_pair(const Bf16*, float* p, const floats* pair) {
    for (long i = 0; i < LANES; i++) {
        p[2 * i] = pair[0][i];
        p[2 * i + 1] = pair[1][i];
    }
}

template <class T>
static inline void arrange(const T*, float*, long) {}

static inline void arrange(const Bf16*, float* x, long n) {
    float even[LANES], odd[LANES];
    for (; n >= PAIR; n -= PAIR, x += PAIR) {
        for (long i = 0; i < LANES; i++) even[i] = x[2 * i], odd[i] = x[2 * i + 1];
        std::memcpy(x, even, sizeof even);
        std::memcpy(x + LANES, odd, sizeof odd);
    }
}

static inline float sum_of(floats v) {
    quarter_floats quarters[LANES / 4], q = quarter_floats{};
    std::memcpy(quarters, &v, sizeof v);
    for (long i = 0; i < LANES / 4; i++) q += quarters[i];
    return (q[0] + q[2]) + (q[1] + q[3]);
}
