// Products with an int8 weight as LLM.int8() makes them (Dettmers et al. 2022): what goes in is rounded to int8 row by row,
// all but the columns that hold a number above the threshold. After bits.h and frozen.h.
//
// Where the processor has instructions for it, int8 times int8 is summed in int32 (dnnl_gemm_s8s8s32). Without them that
// function saturates at 16 bits on the way; there the same whole numbers are multiplied as floats, and differ by rounding.
#include <cmath>
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
    const double largest = finite_or_nan(top);
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

// x . w, or (x scales) . valuesT where it is `by_input`: the weight's scales then go into the rows of x, which are rounded to
// int8 with them. As projection.h's.
template <>
struct Added<Frozen<int8_t>> {
    const float* x;
    const Frozen<int8_t>& weight;
    long rows, in, out;
    bool by_input;

    Added(const float* x, const Frozen<int8_t>& weight, long rows, long in, long out, bool by_input)
        : x(x), weight(weight), rows(rows), in(in), out(out), by_input(by_input) {
        if (!by_input) kept = kept_columns(x, rows, in, weight.outliers);
        if (!weight.whole_numbers) return;
        whole.reset(new int8_t[at_once() * summed()]);
        scales.reset(new float[at_once()]);
        sums.reset(new int32_t[at_once() * made()]);
        for (long k = 0; k < (by_input ? 0 : in); k++)
            if (!kept[k]) places.push_back(k);
        outliers.resize(places.size() * out);
        for (size_t p = 0; p < places.size(); p++) {
            float* row = outliers.data() + p * out;
            to_floats(weight.values + places[p] * out, out, row);
            for (long j = 0; j < out; j++) row[j] *= weight.scales[j];
        }
    }

    long at_once() const { return std::min(INT8_ROWS, rows); }

    // Rows first … first + n: their whole numbers, and the sums of products of these.
    void prepare(long first, long n) {
        if (!weight.whole_numbers) return;
        const int32_t nothing = 0;
        const long k = summed();
        to_int8(x + first * k, factors(), mask(), n, k, whole.get(), scales.get());
        dnnl_gemm_s8s8s32('N', by_input ? 'T' : 'N', 'F', n, made(), k, 1.0f, whole.get(), k, 0, weight.values, out, 0, 0.0f,
                          sums.get(), made(), &nothing);
        start = first;
    }

    void add(float* y, long first, long n) const {
        if (!weight.whole_numbers) return;
        const long width = made(), count = places.size();
        for (long i = first; i < first + n; i++) {
            const int32_t* sum = sums.get() + (i - start) * width;
            const float scale = scales[i - start], *columns = by_input ? nullptr : weight.scales;
            for (long j = 0; j < width; j++) y[i * width + j] += sum[j] * scale * (columns ? columns[j] : 1.0f);
        }
        if (!count) return;
        std::vector<float> some(n * count);
        for (long i = 0; i < n; i++)
            for (long p = 0; p < count; p++) some[i * count + p] = x[(first + i) * in + places[p]];
        dnnl_sgemm('N', 'N', n, out, count, 1.0f, some.data(), count, outliers.data(), out, 1.0f, y + first * out, out);
    }

    // Without the instructions: the same numbers as floats.
    void add_all(float* y) const {
        if (weight.whole_numbers) return;
        const std::unique_ptr<float[]> floats(new float[at_once() * summed()]);
        for (long first = 0; first < rows; first += INT8_ROWS) {
            const long n = std::min(INT8_ROWS, rows - first);
            rounded(x + first * summed(), factors(), mask(), n, summed(), floats.get());
            if (by_input) by_input_by_rows(floats.get(), weight, y + first * in, n, in, out, 1.0f);
            else add_by_columns(floats.get(), weight, y + first * out, n, in, out);
        }
    }

  private:
    long summed() const { return by_input ? out : in; }
    long made() const { return by_input ? in : out; }
    const float* factors() const { return by_input ? weight.scales : nullptr; }
    const uint32_t* mask() const { return kept.empty() ? nullptr : kept.data(); }

    std::vector<uint32_t> kept;
    std::vector<long> places;     // of the outliers' columns,
    std::vector<float> outliers;  // with these rows of the weight
    std::unique_ptr<int8_t[]> whole;
    std::unique_ptr<float[]> scales;
    std::unique_ptr<int32_t[]> sums;
    long start = 0;
};

// y += x . w
static void add_projection(const float* x, const Frozen<int8_t>& w, float* y, long rows, long in, long out) {
    begun_and_added(Added<Frozen<int8_t>>(x, w, rows, in, out, false), y, [](long, long) {});
}

// dx = beta dx + dy . wT, beta 0 or 1
static void projection_by_input(const float* dy, const Frozen<int8_t>& w, float* dx, long rows, long in, long out,
                                float beta) {
    begun_and_added(Added<Frozen<int8_t>>(dy, w, rows, in, out, true), dx, [=](long first, long n) {
        if (beta == 0) std::fill_n(dx + first * in, n * in, 0.0f);
    });
}
