// Matrices that are not trained, kept in fewer bits. oneDNN's product in float32 gets some of their columns or rows at a
// time as floats, in a buffer of the call's own. After bfloat16.h, sgemm.h and projection.h.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

static const long FROZEN_PANEL = 256;  // columns, or rows, that are floats at a time

struct Float16 { uint16_t bits; };

// values by rows; of int8, the number is values * scale, with a scale for each column of a projection [in, out], for each
// row of a table [vocab, width]. Other types have none.
// outliers: what is larger in a projection's input is not rounded to int8 (int8_products.h); 0: everything is.
// whole_numbers: int8 products by the processor's instructions for them.
template <class T>
struct Frozen {
    typedef float Number;  // of what rows_of gives
    const T* values;
    const float* scales;
    float outliers;
    bool whole_numbers;
};

template <class T>
static inline void to_floats(const T* values, long n, float* out) {
    for (long i = 0; i < n; i++) out[i] = values[i];
}

// All are finite. Those below 2^-14 have no leading one, and would be flushed to 0 as floats of the same pattern.
static inline void to_floats(const Float16* values, long n, float* out) {
    for (long i = 0; i < n; i++) {
        const uint32_t half = values[i].bits, sign = (half & 0x8000) << 16;
        const uint32_t normal = ((half & 0x7fff) << 13) + (112 << 23);
        const float small = (float)(int)(half & 0x3ff) * 5.9604644775390625e-8f;  // 2^-24
        uint32_t bits;
        std::memcpy(&bits, &small, 4);
        bits = ((half & 0x7c00) ? normal : bits) | sign;
        std::memcpy(out + i, &bits, 4);
    }
}

// panel [in, n] = columns first … first + n of w [in, out]
template <class T>
static void columns_of(const Frozen<T>& w, long in, long out, long first, long n, float* panel) {
    #pragma omp parallel for
    for (long k = 0; k < in; k++) {
        to_floats(w.values + k * out + first, n, panel + k * n);
        for (long j = 0; w.scales && j < n; j++) panel[k * n + j] *= w.scales[first + j];
    }
}

// panel [n, stride] = rows first … first + n of w [.., width], unscaled
template <class T>
static void whole_rows_of(const Frozen<T>& w, long width, long first, long n, float* panel, long stride) {
    #pragma omp parallel for
    for (long k = 0; k < n; k++) to_floats(w.values + (first + k) * width, width, panel + k * stride);
}

// y += x . w, with x as it is
template <class T>
static void add_by_columns(const float* x, const Frozen<T>& w, float* y, long rows, long in, long out) {
    const std::unique_ptr<float[]> panel(new float[in * std::min(FROZEN_PANEL, out)]);
    for (long first = 0; first < out; first += FROZEN_PANEL) {
        const long n = std::min(FROZEN_PANEL, out - first);
        columns_of(w, in, out, first, n, panel.get());
        dnnl_sgemm('N', 'N', rows, n, in, 1.0f, x, in, panel.get(), n, 1.0f, y + first, out);
    }
}

// dx = beta dx + dy . wT, with the values of w as they are: its scales have been multiplied into dy
template <class T>
static void by_input_by_rows(const float* dy, const Frozen<T>& w, float* dx, long rows, long in, long out, float beta) {
    const long stride = out + 16;  // see projection_by_input
    const std::unique_ptr<float[]> panel(new float[stride * std::min(FROZEN_PANEL, in)]);
    for (long first = 0; first < in; first += FROZEN_PANEL) {
        const long n = std::min(FROZEN_PANEL, in - first);
        whole_rows_of(w, out, first, n, panel.get(), stride);
        dnnl_sgemm('N', 'T', rows, n, out, 1.0f, dy, out, panel.get(), stride, beta, dx + first, in);
    }
}

// What projection.h has for a weight in float32. int8's are in int8_products.h.
template <class T>
static void add_projection(const float* x, const Frozen<T>& w, float* y, long rows, long in, long out) {
    add_by_columns(x, w, y, rows, in, out);
}

template <class T>
static void projection_by_input(const float* dy, const Frozen<T>& w, float* dx, long rows, long in, long out,
                                float beta) {
    by_input_by_rows(dy, w, dx, rows, in, out, beta);
}
