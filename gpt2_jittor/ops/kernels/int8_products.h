// Products with an int8 weight as LLM.int8() makes them (Dettmers et al. 2022): what goes in is rounded to int8 row by row,
// all but the columns that hold a number above the threshold. After bits.h and frozen.h.
//
// Where the processor has instructions for it, int8 times int8 is summed in int32 (dnnl_gemm_s8s8s32). Without them that
// function saturates at 16 bits on the way; there the same whole numbers are multiplied as floats, and differ by rounding.
#include <cmath>
#include <limits>
#include <vector>

extern "C" int dnnl_gemm_s8s8s32(char transa, char transb, char offsetc, long m, long n, long k, float alpha,
                                 const int8_t* a, long lda, int8_t ao, const int8_t* b, long ldb, int8_t bo, float beta,
                                 int32_t* c, long ldc, const int32_t* co);

static const long INT8_ROWS = 1024;  // of those that are rounded at a time

// Which columns of x [rows, width] hold no number above the threshold, as masks: all bits of them, and none of outliers.
// Where the threshold is 0 there are no outliers.
static std::vector<uint32_t> kept_columns(const float* x, long rows, long width, float threshold) {
    const uint32_t limit = threshold ? magnitude(threshold) : UINT32_MAX;
    std::vector<uint32_t> kept(width, UINT32_MAX);
    #pragma omp parallel
    {
        std::vector<uint32_t> top(width, 0);
        #pragma omp for
        for (long i = 0; i < (threshold ? rows : 0); i++)
            for (long j = 0; j < width; j++) top[j] = std::max(top[j], magnitude(x[i * width + j]));
        #pragma omp critical(kept_columns)
        for (long j = 0; j < width; j++) kept[j] = top[j] > limit ? 0 : kept[j];
    }
    return kept;
}

// A number is about scale times the whole number rint(number * inverse).
struct RowScale {
    float scale, inverse;
};

// Of a row [width], multiplied by `factors` where there are any: its largest magnitude / 127, of the columns that are kept,
// all of them where that is null. Where it is infinite or NaN both are NaN, and so are the row's products.
static RowScale scale_of(const float* row, const float* factors, const uint32_t* kept, long width) {
    uint32_t top = 0;
    for (long j = 0; j < width; j++) {
        const uint32_t here = magnitude(factors ? row[j] * factors[j] : row[j]);
        top = std::max(top, kept ? here & kept[j] : here);
    }
    if (top == 0) return {0.0f, 0.0f};
    const double largest = from_bits(top >= 0x7f800000 ? 0x7fc00000 : top);
    return {(float)(largest / 127.0), (float)(127.0 / largest)};
}

// out = x as int8 keeps it, as floats; outliers stay what they are
static void rounded(const float* x, const float* factors, const uint32_t* kept, long rows, long width, float* out) {
    #pragma omp parallel for
    for (long i = 0; i < rows; i++) {
        const float* row = x + i * width;
        const RowScale s = scale_of(row, factors, kept, width);
        for (long j = 0; j < width; j++) {
            const float value = factors ? row[j] * factors[j] : row[j];
            const float near = std::rint(value * s.inverse) * s.scale;
            out[i * width + j] = !kept || kept[j] ? near : value;
        }
    }
}

// The same as whole numbers, 0 for outliers, and each row's scale
static void to_int8(const float* x, const float* factors, const uint32_t* kept, long rows, long width, int8_t* out,
                    float* scales) {
    #pragma omp parallel for
    for (long i = 0; i < rows; i++) {
        const float* row = x + i * width;
        const RowScale s = scale_of(row, factors, kept, width);
        scales[i] = s.scale;
        for (long j = 0; j < width; j++) {
            const float value = factors ? row[j] * factors[j] : row[j];
            const int whole = (int)std::rint(value * s.inverse);
            out[i * width + j] = (int8_t)(kept ? whole & (int)kept[j] : whole);
        }
    }
}

// y [rows, n] = beta y + scales q . w, or . wT, times `columns` where there are any; q [rows, k] int8
static void add_whole_numbers(const int8_t* q, const float* scales, const int8_t* w, char transposed, const float* columns,
                              float* y, long rows, long k, long n, float beta) {
    const std::unique_ptr<int32_t[]> sums(new int32_t[rows * n]);
    const int32_t nothing = 0;
    dnnl_gemm_s8s8s32('N', transposed, 'F', rows, n, k, 1.0f, q, k, 0, w, transposed == 'T' ? k : n, 0, 0.0f, sums.get(), n,
                      &nothing);
    #pragma omp parallel for
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < n; j++) {
            const float product = sums[i * n + j] * scales[i] * (columns ? columns[j] : 1.0f);
            y[i * n + j] = beta ? beta * y[i * n + j] + product : product;
        }
}

// y += x . w of the outliers' columns alone
static void add_outliers(const float* x, const Frozen<int8_t>& w, const std::vector<uint32_t>& kept, float* y, long rows,
                         long in, long out) {
    std::vector<long> places;
    for (long k = 0; k < in; k++)
        if (!kept[k]) places.push_back(k);
    const long count = places.size();
    if (!count) return;
    const std::unique_ptr<float[]> some(new float[rows * count]), weight(new float[count * out]);
    for (long i = 0; i < rows; i++)
        for (long p = 0; p < count; p++) some[i * count + p] = x[i * in + places[p]];
    for (long p = 0; p < count; p++) {
        to_floats(w.values + places[p] * out, out, weight.get() + p * out);
        for (long j = 0; j < out; j++) weight[p * out + j] *= w.scales[j];
    }
    dnnl_sgemm('N', 'N', rows, out, count, 1.0f, some.get(), count, weight.get(), out, 1.0f, y, out);
}

// y += x . w
static void add_projection(const float* x, const Frozen<int8_t>& w, float* y, long rows, long in, long out) {
    const std::vector<uint32_t> kept = kept_columns(x, rows, in, w.outliers);
    const long most = std::min(INT8_ROWS, rows);
    const std::unique_ptr<float[]> floats(new float[w.whole_numbers ? most : most * in]);  // scales, or all of x
    const std::unique_ptr<int8_t[]> whole(new int8_t[w.whole_numbers ? most * in : 1]);
    for (long first = 0; first < rows; first += INT8_ROWS) {
        const long n = std::min(INT8_ROWS, rows - first);
        const float* some = x + first * in;
        float* result = y + first * out;
        if (!w.whole_numbers) {
            rounded(some, nullptr, kept.data(), n, in, floats.get());
            add_by_columns(floats.get(), w, result, n, in, out);
            continue;
        }
        to_int8(some, nullptr, kept.data(), n, in, whole.get(), floats.get());
        add_whole_numbers(whole.get(), floats.get(), w.values, 'N', w.scales, result, n, in, out, 1.0f);
        add_outliers(some, w, kept, result, n, in, out);
    }
}

// dx = beta dx + (dy scales) . valuesT: the weight's scales go into dy's rows, which are rounded to int8 with them
static void projection_by_input(const float* dy, const Frozen<int8_t>& w, float* dx, long rows, long in, long out,
                                float beta) {
    const long most = std::min(INT8_ROWS, rows);
    const std::unique_ptr<float[]> floats(new float[w.whole_numbers ? most : most * out]);
    const std::unique_ptr<int8_t[]> whole(new int8_t[w.whole_numbers ? most * out : 1]);
    for (long first = 0; first < rows; first += INT8_ROWS) {
        const long n = std::min(INT8_ROWS, rows - first);
        const float* some = dy + first * out;
        if (!w.whole_numbers) {
            rounded(some, w.scales, nullptr, n, out, floats.get());
            by_input_by_rows(floats.get(), w, dx + first * in, n, in, out, beta);
            continue;
        }
        to_int8(some, w.scales, nullptr, n, out, whole.get(), floats.get());
        add_whole_numbers(whole.get(), floats.get(), w.values, 'T', nullptr, dx + first * in, n, out, in, beta);
    }
}
