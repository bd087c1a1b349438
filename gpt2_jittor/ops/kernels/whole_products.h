// Products of a few rows with a large weight in int8, for decoding, as products.h has them for floats. Rows of x become
// whole numbers of 16 bits times a scale, which is 258 times as fine as the weight's own; the processor's instructions
// multiply these and sum in 32 bits, without rounding. After bits.h, vectors.h and products.h.
#include <cmath>
#include <vector>

// Sums of 32 bits. Of WIDE numbers at a time neighbours are multiplied and summed into one of them: vpdpwssd, or vpmaddwd
// and vpaddd.
static const long WIDE = 2 * LANES;

#if defined(__AVX512BW__) || (defined(__AVX2__) && !defined(__AVX512F__))
#ifdef __AVX512BW__
static inline wholes widened(const int8_t* p) { return (wholes)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p)); }
static inline wholes load_wholes(const int16_t* p) { return (wholes)_mm512_loadu_si512(p); }
#else
static inline wholes widened(const int8_t* p) { return (wholes)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)); }
static inline wholes load_wholes(const int16_t* p) { return (wholes)_mm256_loadu_si256((const __m256i*)p); }
#endif

static inline void add_products(wholes& sums, wholes a, wholes b) {
#if defined(__AVX512VNNI__)  // GCC 12 copies the sums from one register to another where it is an intrinsic function
    asm("vpdpwssd %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
#elif defined(__AVX512BW__)
    sums += (wholes)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#else
    sums += (wholes)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#endif
}
#else
struct PairsOfWholes { wholes even, odd; };

template <class T>
static inline PairsOfWholes widened(const T* p) {
    PairsOfWholes v;
    for (long i = 0; i < LANES; i++) v.even[i] = p[2 * i], v.odd[i] = p[2 * i + 1];
    return v;
}
static inline PairsOfWholes load_wholes(const int16_t* p) { return widened(p); }
static inline void add_products(wholes& sums, const PairsOfWholes& a, const PairsOfWholes& b) {
    sums += a.even * b.even + a.odd * b.odd;
}
#endif

// A weight [outputs, inputs] by rows, each times its scale.
struct Rows {
    const int8_t* values;
    const float* scales;
    long inputs, outputs;
};

// So many inputs can be summed: a lane has 512 products of 127 and 32,767 at most.
static const long MOST_INPUTS = LANES * 512;

// Rows of whole numbers [rows, inputs], each times its scale: float32's largest magnitude / 32,767. Where that is infinite
// or NaN the scale is NaN.
struct Wholes {
    std::vector<int16_t> values;
    std::vector<float> scales;

    Wholes(const float* x, long rows, long inputs) : values(rows * inputs), scales(rows) {
        for (long r = 0; r < rows; r++) {
            const float* row = x + r * inputs;
            uint32_t top = 0;
            for (long k = 0; k < inputs; k++) top = std::max(top, magnitude(row[k]));
            const float largest = finite_or_nan(top), inverse = top ? 32767.0f / largest : 0.0f;
            for (long k = 0; k < inputs; k++) values[r * inputs + k] = (int16_t)(int)std::rint(row[k] * inverse);
            scales[r] = largest / 32767.0f;
        }
    }
};

static const long TOGETHER_IN_L2 = 32;  // columns that all rows are multiplied with before the next ones, which come there

// sums[r COUNT + j] = x[r] . w[j] for ROWS rows of x and COUNT of w, `depth` numbers of each; rows lie `stride` apart. On the
// way as many of w are fetched, TOGETHER_IN_L2 further on.
template <int ROWS, int COUNT>
static inline void whole_dots(Turn turn, const int8_t* w, const int16_t* x, long stride, long depth, float* sums) {
    wholes acc[ROWS * COUNT] = {};
    const long whole = depth / WIDE * WIDE;
    for (long k = 0, next = turn.number * LINE; k < whole; k += WIDE) {
        const bool fetch = k == next;
        if (fetch) next += turn.of * LINE;
        decltype(widened(w)) a[COUNT];
        #pragma GCC unroll 8
        for (int j = 0; j < COUNT; j++) {
            a[j] = widened(w + j * stride + k);
            if (fetch) __builtin_prefetch(w + (TOGETHER_IN_L2 + j) * stride + k, 0, TO_L2);
        }
        #pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            const auto b = load_wholes(x + r * stride + k);
            #pragma GCC unroll 8
            for (int j = 0; j < COUNT; j++) add_products(acc[r * COUNT + j], a[j], b);
        }
    }
    floats totals[ROWS * COUNT];
    #pragma GCC unroll 16
    for (int i = 0; i < ROWS * COUNT; i++) totals[i] = __builtin_convertvector(acc[i], floats);
    lane_sums<ROWS, COUNT>(totals, sums);
    for (long k = whole; k < depth; k++)
        for (int i = 0; i < ROWS * COUNT; i++) sums[i] += (float)(x[i / COUNT * stride + k] * w[i % COUNT * stride + k]);
}

// y[r, j] for ROWS rows of x and COUNT of w: their products times both of their scales.
template <int ROWS, int COUNT>
static inline void whole_tile(Turn turn, const Rows& w, const Wholes& x, long row, long column, float* y) {
    const int8_t* weight = w.values + column * w.inputs;
    const int16_t* given = x.values.data() + row * w.inputs;
    float sums[ROWS * COUNT], more[ROWS * COUNT];
    whole_dots<ROWS, COUNT>(turn, weight, given, w.inputs, std::min(MOST_INPUTS, w.inputs), sums);
    for (long k = MOST_INPUTS; k < w.inputs; k += MOST_INPUTS) {
        whole_dots<ROWS, COUNT>(turn, weight + k, given + k, w.inputs, std::min(MOST_INPUTS, w.inputs - k), more);
        for (int i = 0; i < ROWS * COUNT; i++) sums[i] += more[i];
    }
    #pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++) {
        float* to = y + (row + r) * w.outputs + column;
        const float *from = sums + r * COUNT, *scales = w.scales + column, scale = x.scales[row + r];
        if (COUNT % 4)
            for (int j = 0; j < COUNT; j++) to[j] = from[j] * scale * scales[j];
        else
            for (int j = 0; j < COUNT; j += 4)
                *(quarter_floats*)(to + j) = *(quarter_floats*)(from + j) * scale * *(quarter_floats*)(scales + j);
    }
}

// Columns [first, last) of y [rows, outputs] = x wT.
static void product(const Rows& w, const Wholes& x, long rows, float* y, long first, long last) {
    for (long block = first; block < last; block += TOGETHER_IN_L2) {
        const long end = std::min(last, block + TOGETHER_IN_L2);
        for (long row = 0; row < rows; row += TILE) {
            const long n = std::min(TILE, rows - row);
            const Turn turn = {row / TILE, (rows + TILE - 1) / TILE};
            for (long j = block; j < end;) {
                const bool whole = j + SUMS <= end;
                with_known<TILE>(n, [&](auto rows) {
                    if (whole) whole_tile<decltype(rows)::value, SUMS>(turn, w, x, row, j, y);
                    else whole_tile<decltype(rows)::value, 1>(turn, w, x, row, j, y);
                });
                j += whole ? SUMS : 1;
            }
        }
    }
}
