// As many floats at a time as a register of this processor holds, as GCC's own vector type: 16 with AVX-512, 8 with AVX2,
// 8 in two registers with SSE. After bfloat16.h.
#include <cstdint>
#include <cstring>
#include <utility>
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
typedef int32_t wholes __attribute__((vector_size(LANES * 4)));
typedef float quarter_floats __attribute__((vector_size(16), aligned(4)));

static inline floats load(const float* p) { return *(const floats*)p; }

// sum + a b. Under -Ofast GCC makes three instructions of two such sums in the expression's own form: it adds the products
// first.
static inline floats multiply_add(floats a, floats b, floats sum) {
#if defined(__AVX512F__)
    return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__AVX2__) && defined(__FMA__)
    return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
    return sum + a * b;
#endif
}

static inline void store(float* p, floats v) { *(floats*)p = v; }

// PAIR values as two vectors, one behind the other; of bfloat16 the even ones and the odd ones, which takes half of the
// instructions. `store_pair` puts values of such vectors in order; `arrange` puts those of x in such an order.
static const long PAIR = 2 * LANES;

static inline void load_pair(const float* p, floats* pair) {
    pair[0] = load(p);
    pair[1] = load(p + LANES);
}

static inline void load_pair(const Bf16* p, floats* pair) {
    const words both = *(const words*)p;
    pair[0] = (floats)(both << 16);
    pair[1] = (floats)(both & 0xffff0000u);
}

static inline void store_pair(float* p, const floats* pair) {
    for (long i = 0; i < LANES; i++) {
        p[2 * i] = pair[0][i];
        p[2 * i + 1] = pair[1][i];
    }
}

static inline void arrange(const float*, float*, long) {}

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

// Of groups of G lanes each the sum of its halves, those of b behind those of a.
template <int G, int... I>
static inline floats halved(floats a, floats b, std::integer_sequence<int, I...>) {
    const wholes lower = {(I / (G / 2) * G + I % (G / 2))...};
    return __builtin_shuffle(a, b, lower) + __builtin_shuffle(a, b, lower + G / 2);
}

// The sums of N vectors' lanes, N a power of two up to LANES, as the first lanes of v[0]; G lanes hold a sum so far.
template <int N, int G = LANES>
struct LanesOf {
    static inline void add(floats* v) {
        constexpr auto lanes = std::make_integer_sequence<int, LANES>();
        #pragma GCC unroll 8
        for (int i = 0; i < (N + 1) / 2; i++) v[i] = halved<G>(v[2 * i], v[N > 1 ? 2 * i + 1 : 0], lanes);
        LanesOf<(N + 1) / 2, G / 2>::add(v);
    }
};
template <int N>
struct LanesOf<N, 1> {
    static inline void add(floats*) {}
};

// sums[i] = the sum of v[i]'s lanes, of ROWS times COUNT vectors, which are used up. Loops over vectors, here and where
// these come from, are unrolled by order: with an index that is not known they would not stay in registers.
template <int ROWS, int COUNT>
static inline void lane_sums(floats* v, float* sums) {
    constexpr int AT_ONCE = ROWS == 3 || ROWS * COUNT > LANES ? COUNT : ROWS * COUNT;
    #pragma GCC unroll 4
    for (int i = 0; i < ROWS * COUNT; i += AT_ONCE) {
        LanesOf<AT_ONCE>::add(v + i);
        std::memcpy(sums + i, v + i, AT_ONCE * sizeof(float));
    }
}
