// Products of a few rows with a large weight, for decoding: bound by reading the weight, which is read once. Rows are
// taken up to 4 at a time; further ones find their part of the weight in the cache, and the first ones fetch what comes
// next from memory, so that it arrives while all of them are being multiplied. After vectors.h.
#include <algorithm>

static const long TILE = 4;
static const long PANEL = 64;  // columns of a narrow weight that lie together
static const long LINE = 64;   // bytes of the cache's
static const int DEPTH = 16;   // rows of a panel that are fetched ahead; twice as many where one row waits for memory
static const int TO_L2 = 2;    // of __builtin_prefetch; what is fetched ahead is too much for L1

// A Conv1D weight, [inputs, outputs] by rows.
struct Plain {
    const float* values;
    long inputs, outputs;
};

// The same in bfloat16: panels of 64 columns, each [inputs, 64] by rows, the last one filled up with zeros.
struct Panels {
    const Bf16* values;
    long inputs, outputs;
    const Bf16* column(long c) const { return values + c / PANEL * PANEL * inputs + c % PANEL; }
};

// y[r, 0 … PAIR PAIRS) = sum over k of x[r, k] w[k, …) for ROWS rows; the rows of w are PANEL apart.
template <int ROWS, int PAIRS>
static inline void strip(const Bf16* w, long inputs, const float* x, float sums[TILE][PANEL]) {
    floats acc[ROWS][2 * PAIRS];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < 2 * PAIRS; v++) acc[r][v] = floats{};
    for (long k = 0; k < inputs; k++) {
        const Bf16* row = w + k * PANEL;
        #pragma GCC unroll 4
        for (int v = 0; v < PAIRS; v++) {
            if (v * PAIR * sizeof(Bf16) % LINE == 0) {
                if (ROWS == 1) __builtin_prefetch(row + 2 * DEPTH * PANEL + v * PAIR, 0, TO_L2);
                else __builtin_prefetch(row + DEPTH * PANEL + v * PAIR);
            }
            floats a[2];
            load_pair(row + v * PAIR, a);
            #pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) {
                acc[r][2 * v] += a[0] * x[r * inputs + k];
                acc[r][2 * v + 1] += a[1] * x[r * inputs + k];
            }
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < PAIRS; v++) store_pair(sums[r] + v * PAIR, acc[r] + 2 * v);
}

template <int PAIRS>
static void strip_of(long rows, const Bf16* w, long inputs, const float* x, float sums[TILE][PANEL]) {
    if (rows == 1) strip<1, PAIRS>(w, inputs, x, sums);
    if (rows == 2) strip<2, PAIRS>(w, inputs, x, sums);
    if (rows == 3) strip<3, PAIRS>(w, inputs, x, sums);
    if (rows == 4) strip<4, PAIRS>(w, inputs, x, sums);
}

// y[r, 0 … LANES VECS) += sum over k < depth of x[r, k] w[k, …) for ROWS rows, with the rows of w and y `stride` apart.
// On the way the same columns of the weight's rows at `ahead`, where there is one, are fetched.
template <int ROWS, int VECS>
static inline void add_strip(const float* w, long stride, long depth, const float* x, long inputs, float* y,
                             const float* ahead) {
    floats acc[ROWS][VECS];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECS; v++) acc[r][v] = load(y + r * stride + v * LANES);
    for (long k = 0; k < depth; k++)
        #pragma GCC unroll 8
        for (int v = 0; v < VECS; v++) {
            const floats a = load(w + k * stride + v * LANES);
            if (ahead) __builtin_prefetch(ahead + k * stride + v * LANES, 0, TO_L2);
            #pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) acc[r][v] += a * x[r * inputs + k];
        }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECS; v++) store(y + r * stride + v * LANES, acc[r][v]);
}

// The same for any number of rows; of one row the sums of a line of memory and more stay in registers.
static const long ALONE = 4 * 16, TOGETHER = SUMS * LANES;  // columns

static void add_strips(long rows, const float* w, long stride, long depth, const float* x, long inputs, float* y,
                       const float* ahead) {
    if (rows == 1) return add_strip<1, ALONE / LANES>(w, stride, depth, x, inputs, y, ahead);
    for (long r = 0; r < rows; r += TILE, ahead = nullptr) {
        const long n = std::min(TILE, rows - r);
        const float* xr = x + r * inputs;
        float* yr = y + r * stride;
        if (n == 1) add_strip<1, SUMS>(w, stride, depth, xr, inputs, yr, ahead);
        if (n == 2) add_strip<2, SUMS>(w, stride, depth, xr, inputs, yr, ahead);
        if (n == 3) add_strip<3, SUMS>(w, stride, depth, xr, inputs, yr, ahead);
        if (n == 4) add_strip<4, SUMS>(w, stride, depth, xr, inputs, yr, ahead);
    }
}

struct Range {
    long first, last;
};

// y [rows, outputs], in some columns, = the part of x w that some of the inputs make. The weight is read row by row, a
// few of them side by side, while the next ones are fetched, which is how memory is fastest. For several rows of x they
// are more, so that sums stay in registers for longer.
static void part_of_product(const Plain& w, const float* x, long rows, float* y, Range inputs, Range columns) {
    for (long r = 0; r < rows; r++) std::fill(y + r * w.outputs + columns.first, y + r * w.outputs + columns.last, 0.0f);
    const long most = rows == 1 ? 8 : 32, strip = rows == 1 ? ALONE : TOGETHER;
    const long whole = columns.first + (columns.last - columns.first) / strip * strip;
    for (long k = inputs.first; k < inputs.last; k += most) {
        const long depth = std::min(most, inputs.last - k);
        const float *wk = w.values + k * w.outputs, *xk = x + k;
        const bool fetch = k + depth + most <= inputs.last;
        for (long c = columns.first; c < whole; c += strip)
            add_strips(rows, wk + c, w.outputs, depth, xk, w.inputs, y + c, fetch ? wk + depth * w.outputs + c : nullptr);
        for (long r = 0; r < rows; r++)
            for (long i = 0; i < depth; i++)
                for (long c = whole; c < columns.last; c++)
                    y[r * w.outputs + c] += xk[r * w.inputs + i] * wk[i * w.outputs + c];
    }
}

// Columns [first, last) of y = x w: x [rows, inputs], y [rows, outputs]. `first` is a multiple of PAIR.
static void product(const Panels& w, const float* x, long rows, float* y, long first, long last) {
    float sums[TILE][PANEL];
    long width;
    for (long c = first; c < last; c += width) {
        const long pairs = (std::min(last, (c / PANEL + 1) * PANEL) - c + PAIR - 1) / PAIR;
        const long most = std::min(pairs, rows == 1 ? PANEL / PAIR : SUMS / 2);
        const long chosen = most >= 4 ? 4 : most >= 2 ? 2 : 1;
        width = chosen * PAIR;
        for (long r = 0; r < rows; r += TILE) {
            const long n = std::min(TILE, rows - r), kept = std::min(width, last - c);
            const float* xr = x + r * w.inputs;
            if (chosen == 4) strip<1, PANEL / PAIR>(w.column(c), w.inputs, xr, sums);  // a whole panel
            if (chosen == 2) strip_of<2>(n, w.column(c), w.inputs, xr, sums);
            if (chosen == 1) strip_of<1>(n, w.column(c), w.inputs, xr, sums);
            for (long i = 0; i < n; i++)
                for (long j = 0; j < kept; j++) y[(r + i) * w.outputs + c + j] = sums[i][j];
        }
    }
}

// y[r, j] = x[r] . w[j] for ROWS rows of x and COUNT of w; the next COUNT of w are fetched ahead if `fetch`. The sums
// of a single row are two each: adding takes longer than reading where each waits for the one before.
template <int ROWS, int COUNT, class T>
static inline void dots(bool fetch, const T* w, long inputs, const float* x, float* y, long y_stride) {
    constexpr int APART = ROWS == 1 ? 2 : 1;
    floats acc[APART][ROWS * COUNT] = {}, totals[ROWS * COUNT];
    const long whole = inputs / PAIR * PAIR;
    for (long k = 0; k < whole; k += PAIR) {
        floats a[COUNT][2];
        #pragma GCC unroll 4
        for (int j = 0; j < COUNT; j++) {
            load_pair(w + j * inputs + k, a[j]);
            if (fetch)
                for (long line = 0; line < PAIR; line += LINE / sizeof(T))
                    __builtin_prefetch(w + (COUNT + j) * inputs + k + line, 0, TO_L2);
        }
        #pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            const floats first = load(x + r * inputs + k), second = load(x + r * inputs + k + LANES);
            #pragma GCC unroll 4
            for (int j = 0; j < COUNT; j++) {
                floats &sum = acc[0][r * COUNT + j], &other = acc[APART - 1][r * COUNT + j];
                sum = multiply_add(a[j][0], first, sum);
                other = multiply_add(a[j][1], second, other);
            }
        }
    }
    #pragma GCC unroll 16
    for (int i = 0; i < ROWS * COUNT; i++) totals[i] = APART == 2 ? acc[0][i] + acc[APART - 1][i] : acc[0][i];
    float sums[ROWS * COUNT];
    lane_sums<ROWS, COUNT>(totals, sums);
    for (long k = whole; k < inputs; k++)
        for (int i = 0; i < ROWS * COUNT; i++) sums[i] += x[i / COUNT * inputs + k] * (float)w[i % COUNT * inputs + k];
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < COUNT; j++) y[r * y_stride + j] = sums[r * COUNT + j];
}

template <int COUNT, class T>
static void dots_of(long rows, bool fetch, const T* w, long inputs, const float* x, float* y, long y_stride) {
    if (rows == 1) dots<1, COUNT>(fetch, w, inputs, x, y, y_stride);
    if (rows == 2) dots<2, COUNT>(fetch, w, inputs, x, y, y_stride);
    if (rows == 3) dots<3, COUNT>(fetch, w, inputs, x, y, y_stride);
    if (rows == 4) dots<4, COUNT>(fetch, w, inputs, x, y, y_stride);
}

// Columns [first, last) of y = x wT: x [rows, inputs], arranged as w is loaded, w [outputs, inputs] by rows.
template <class T>
static void transposed_product(const T* w, const float* x, long rows, long inputs, long outputs, float* y, long first,
                               long last) {
    const long most = rows == 1 ? 1 : SUMS;  // rows of w side by side; a single row is fastest from end to end
    for (long j = first; j < last;) {
        const long count = j + most <= last ? most : 1;
        for (long r = 0; r < rows; r += TILE) {
            const long n = std::min(TILE, rows - r);
            const float* xr = x + r * inputs;
            const bool fetch = r == 0;
            float* yr = y + r * outputs + j;
            if (count == 1) dots_of<1>(n, fetch, w + j * inputs, inputs, xr, yr, outputs);
            else dots_of<SUMS>(n, fetch, w + j * inputs, inputs, xr, yr, outputs);
        }
        j += count;
    }
}
