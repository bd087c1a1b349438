// Products of a few rows with a large weight, for decoding: bound by reading the weight, which is read once.
//
// A tile of up to 4 rows is multiplied with a strip of columns whose sums stay in registers. More rows take more tiles,
// which find the strip in the cache. After vectors.h.
#include <algorithm>

static const long TILE = 4;
static const long PANEL = 64;  // of int8: one cache line
static const int DEPTH = 16;   // rows of a narrow strip that are fetched ahead

// A Conv1D weight, [inputs, outputs] by rows.
struct Plain {
    typedef float type;
    const float* values;
    long inputs, outputs;
    long stride() const { return outputs; }
    const float* column(long c) const { return values + c; }
    long end(long) const { return outputs; }  // up to where columns lie side by side
    long stored() const { return outputs; }
    float scale(long) const { return 1; }
};

// The same in int8: panels of 64 columns, each [inputs, 64] by rows, the last one filled up with zeros. Column c is
// its int8 times scales[c].
struct Panels {
    typedef int8_t type;
    const int8_t* values;
    const float* scales;
    long inputs, outputs;
    long stride() const { return PANEL; }
    const int8_t* column(long c) const { return values + c / PANEL * PANEL * inputs + c % PANEL; }
    long end(long c) const { return (c / PANEL + 1) * PANEL; }
    long stored() const { return (outputs + PANEL - 1) / PANEL * PANEL; }
    float scale(long c) const { return scales[c]; }
};

// y[r, 0 … 16 VECS) = sum over k of x[r, k] w[k, …) for ROWS rows.
template <int ROWS, int VECS, class T>
static inline void strip(const T* w, long stride, long inputs, const float* x, float sums[TILE][8 * LANES]) {
    floats acc[ROWS][VECS];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECS; v++) acc[r][v] = floats{};
    for (long k = 0; k < inputs; k++) {
        const T* row = w + k * stride;
        // wide strips are followed by the processor itself
        if (VECS < 8)
            for (int v = 0; v < VECS; v += 64 / (LANES * sizeof(T))) __builtin_prefetch(row + DEPTH * stride + v * LANES);
        #pragma GCC unroll 8
        for (int v = 0; v < VECS; v++) {
            const floats a = load(row + v * LANES);
            #pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) acc[r][v] += a * x[r * inputs + k];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECS; v++) store(sums[r] + v * LANES, acc[r][v]);
}

template <int VECS, class T>
static void strip_of(long rows, const T* w, long stride, long inputs, const float* x, float sums[TILE][8 * LANES]) {
    if (rows == 1) strip<1, VECS>(w, stride, inputs, x, sums);
    if (rows == 2) strip<2, VECS>(w, stride, inputs, x, sums);
    if (rows == 3) strip<3, VECS>(w, stride, inputs, x, sums);
    if (rows == 4) strip<4, VECS>(w, stride, inputs, x, sums);
}

// Columns that are no whole vector: the last few of a weight.
static void narrow_strip(long rows, long columns, const float* w, long stride, long inputs, const float* x,
                         float sums[TILE][8 * LANES]) {
    for (long r = 0; r < rows; r++) {
        for (long c = 0; c < columns; c++) sums[r][c] = 0;
        for (long k = 0; k < inputs; k++)
            for (long c = 0; c < columns; c++) sums[r][c] += x[r * inputs + k] * w[k * stride + c];
    }
}

static void narrow_strip(long, long, const int8_t*, long, long, const float*, float[TILE][8 * LANES]) {}  // never there

// Columns [first, last) of y = x w: x [rows, inputs], y [rows, outputs]. `first` is a multiple of 16.
template <class Weight>
static void product(const Weight& w, const float* x, long rows, float* y, long first, long last) {
    float sums[TILE][8 * LANES];
    long width;
    for (long c = first; c < last; c += width) {
        const long whole = (std::min(w.stored(), w.end(c)) - c) / LANES, wanted = (last - c + LANES - 1) / LANES;
        const long vecs = std::min(whole, wanted), most = rows <= 2 ? 8 : 4;
        const int chosen = vecs >= 8 && most == 8 ? 8 : vecs >= 4 ? 4 : vecs >= 2 ? 2 : (int)vecs;
        width = chosen ? chosen * LANES : last - c;
        for (long r = 0; r < rows; r += TILE) {
            const long n = std::min(TILE, rows - r), stride = w.stride();
            const auto* start = w.column(c);
            const float* xr = x + r * w.inputs;
            if (chosen == 8) strip_of<8>(n, start, stride, w.inputs, xr, sums);
            if (chosen == 4) strip_of<4>(n, start, stride, w.inputs, xr, sums);
            if (chosen == 2) strip_of<2>(n, start, stride, w.inputs, xr, sums);
            if (chosen == 1) strip_of<1>(n, start, stride, w.inputs, xr, sums);
            if (chosen == 0) narrow_strip(n, width, start, stride, w.inputs, xr, sums);
            const long kept = std::min(width, last - c);
            for (long i = 0; i < n; i++)
                for (long j = 0; j < kept; j++) y[(r + i) * w.outputs + c + j] = sums[i][j] * w.scale(c + j);
        }
    }
}

// y[r, j] = x[r] . w[j] for ROWS rows of x and COUNT of w; the next COUNT of w are fetched ahead.
template <int ROWS, int COUNT, class T>
static inline void dots(const T* w, const float* scales, long inputs, const float* x, float* y, long y_stride) {
    floats acc[ROWS][COUNT];
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < COUNT; j++) acc[r][j] = floats{};
    const long whole = inputs / LANES * LANES;
    for (long k = 0; k < whole; k += LANES) {
        floats a[COUNT];
        #pragma GCC unroll 4
        for (int j = 0; j < COUNT; j++) {
            a[j] = load(w + j * inputs + k);
            __builtin_prefetch(w + (COUNT + j) * inputs + k);
        }
        #pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            const floats b = load(x + r * inputs + k);
            #pragma GCC unroll 4
            for (int j = 0; j < COUNT; j++) acc[r][j] += a[j] * b;
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < COUNT; j++) {
            float total = sum_of(acc[r][j]);
            for (long k = whole; k < inputs; k++) total += x[r * inputs + k] * w[j * inputs + k];
            y[r * y_stride + j] = scales ? total * scales[j] : total;
        }
}

template <int COUNT, class T>
static void dots_of(long rows, const T* w, const float* scales, long inputs, const float* x, float* y, long y_stride) {
    if (rows == 1) dots<1, COUNT>(w, scales, inputs, x, y, y_stride);
    if (rows == 2) dots<2, COUNT>(w, scales, inputs, x, y, y_stride);
    if (rows == 3) dots<3, COUNT>(w, scales, inputs, x, y, y_stride);
    if (rows == 4) dots<4, COUNT>(w, scales, inputs, x, y, y_stride);
}

// Columns [first, last) of y = x wT: x [rows, inputs], w [outputs, inputs] by rows, times `scales` where there are any.
template <class T>
static void transposed_product(const T* w, const float* scales, const float* x, long rows, long inputs, long outputs,
                               float* y, long first, long last) {
    for (long j = first; j < last;) {
        const long count = j + TILE <= last ? TILE : 1;
        for (long r = 0; r < rows; r += TILE) {
            const long n = std::min(TILE, rows - r);
            const float *xr = x + r * inputs, *s = scales ? scales + j : nullptr;
            if (count == 1) dots_of<1>(n, w + j * inputs, s, inputs, xr, y + r * outputs + j, outputs);
            else dots_of<TILE>(n, w + j * inputs, s, inputs, xr, y + r * outputs + j, outputs);
        }
        j += count;
    }
}
