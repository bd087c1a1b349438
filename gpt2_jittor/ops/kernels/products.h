// Products of a few rows with a large weight, for decoding: bound by reading the weight, which is read once. Rows are
// taken a few at a time; further ones find their part of the weight in the cache. Each of these turns fetches its share of
// what comes next from memory, so that it arrives while all of them are being multiplied. After vectors.h.
#include <algorithm>
#include <type_traits>

static const long TILE = 4;
static const long PANEL = 64;  // columns of a narrow weight that lie together
static const long LINE = 64;   // bytes of the cache's
static const int DEPTH = 16;   // rows of a panel that are fetched ahead; twice as many where one row waits for memory
static const int TO_L2 = 2;    // of __builtin_prefetch; what is fetched ahead is too much for L1

// work(n), n from 1 to MOST as a type whose value the compiler knows.
template <class Work>
static inline void with_known(long, std::integral_constant<int, 0>, const Work&) {}

template <int MOST, class Work>
static inline void with_known(long n, std::integral_constant<int, MOST> most, const Work& work) {
    if (n == MOST) work(most);
    else with_known(n, std::integral_constant<int, MOST - 1>(), work);
}

template <int MOST, class Work>
static inline void with_known(long n, const Work& work) {
    with_known(n, std::integral_constant<int, MOST>(), work);
}

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

// One of the turns that a part of the weight is multiplied in: what it fetches is every `of`th line or row, from `number` on.
struct Turn {
    long number, of;
};

// y[r, 0 … LANES VECS) += sum over k < depth of x[r, k] w[k, …) for ROWS rows, with the rows of w and y `stride` apart.
// On the way the same columns of the weight's rows at `ahead`, where there is one, are fetched.
template <int ROWS, int VECS>
static inline void add_strip(const float* w, long stride, long depth, const float* x, long inputs, float* y,
                             const float* ahead, Turn turn) {
    floats acc[ROWS][VECS];
    #pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        #pragma GCC unroll 8
        for (int v = 0; v < VECS; v++) acc[r][v] = load(y + r * stride + v * LANES);
    for (long k = 0, next = turn.number; k < depth; k++) {
        const bool fetch = ahead && k == next;
        if (fetch) next += turn.of;
        #pragma GCC unroll 8
        for (int v = 0; v < VECS; v++) {
            const floats a = load(w + k * stride + v * LANES);
            if (fetch) __builtin_prefetch(ahead + k * stride + v * LANES, 0, TO_L2);
            #pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) acc[r][v] += a * x[r * inputs + k];
        }
    }
    #pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        #pragma GCC unroll 8
        for (int v = 0; v < VECS; v++) store(y + r * stride + v * LANES, acc[r][v]);
}

// The same for any number of rows. Of one row the sums of a line of memory and more stay in registers; of more than TILE,
// those of narrower strips of more rows.
static const long ALONE = 4 * 16, TOGETHER = SUMS * LANES;  // columns
static const int NARROW = 2, MANY = SUMS / NARROW * TILE;   // vectors, rows

static void add_strips(long rows, const float* w, long stride, long depth, const float* x, long inputs, float* y,
                       const float* ahead) {
    if (rows == 1) return add_strip<1, ALONE / LANES>(w, stride, depth, x, inputs, y, ahead, Turn{0, 1});
    if (rows <= TILE)
        return with_known<TILE>(rows, [=](auto n) {
            add_strip<decltype(n)::value, SUMS>(w, stride, depth, x, inputs, y, ahead, Turn{0, 1});
        });
    const long turns = (rows + MANY - 1) / MANY;
    for (long t = 0, r = 0; t < turns; t++, r += MANY)
        for (long c = 0; c < TOGETHER; c += NARROW * LANES)
            with_known<MANY>(std::min(rows - r, (long)MANY), [=](auto n) {
                add_strip<decltype(n)::value, NARROW>(w + c, stride, depth, x + r * inputs, inputs, y + r * stride + c,
                                                      ahead ? ahead + c : nullptr, Turn{t, turns});
            });
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
            else
                with_known<TILE>(n, [&](auto rows) {
                    if (chosen == 2) strip<decltype(rows)::value, 2>(w.column(c), w.inputs, xr, sums);
                    if (chosen == 1) strip<decltype(rows)::value, 1>(w.column(c), w.inputs, xr, sums);
                });
            for (long i = 0; i < n; i++)
                for (long j = 0; j < kept; j++) y[(r + i) * w.outputs + c + j] = sums[i][j];
        }
    }
}

// y[r, j] = x[r] . w[j] for ROWS rows of x and COUNT of w; on the way the next COUNT of w are fetched. The sums of a single
// row are two each: adding takes longer than reading where each waits for the one before.
template <int ROWS, int COUNT, class T>
static inline void dots(Turn turn, const T* w, long inputs, const float* x, float* y, long y_stride) {
    constexpr int APART = ROWS == 1 ? 2 : 1;
    floats acc[APART][ROWS * COUNT] = {}, totals[ROWS * COUNT];
    const long whole = inputs / PAIR * PAIR;
    for (long k = 0, next = turn.number * PAIR; k < whole; k += PAIR) {
        const bool fetch = k == next;
        if (fetch) next += turn.of * PAIR;
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
            const Turn turn = {r / TILE, (rows + TILE - 1) / TILE};
            float* yr = y + r * outputs + j;
            with_known<TILE>(n, [&](auto rows) {
                if (count == 1) dots<decltype(rows)::value, 1>(turn, w + j * inputs, inputs, xr, yr, outputs);
                else dots<decltype(rows)::value, SUMS>(turn, w + j * inputs, inputs, xr, yr, outputs);
            });
        }
        j += count;
    }
}
