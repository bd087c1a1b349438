// Tiles of matrices in shared memory and their products, for a block of 16 x 16 threads. Each thread computes what its
// rows (one in 16, from its own on) and its columns meet in.
//
// Rows of a tile are PAD floats longer than what they hold: 16 threads that read a float4 from 16 rows, or along one,
// then never meet in a bank of the shared memory.
#include "common.cuh"

static const int SIDE = 16, PAD = 4;

static __device__ inline int own_row(int i) { return threadIdx.x / SIDE + SIDE * i; }
static __device__ inline int own_column(int j) { return threadIdx.x % SIDE + SIDE * j; }

// The sum and the largest over the 16 threads that share their rows.
static __device__ inline float side_sum(float x) {
    for (int other = SIDE / 2; other; other /= 2) x += __shfl_xor_sync(ALL_LANES, x, other);
    return x;
}

static __device__ inline float side_max(float x) {
    for (int other = SIDE / 2; other; other /= 2) {
        const float y = __shfl_xor_sync(ALL_LANES, x, other);
        x = y > x ? y : x;
    }
    return x;
}

// Rows of `dim` floats, `stride` apart, of which there are `count`.
template <class Float> struct Matrix {
    Float* values;
    long stride, count;
    int dim;

    __device__ bool in_fours() const { return dim % 4 == 0 && stride % 4 == 0 && ::in_fours(values); }
};

// tile [ROWS, DIM] = rows first ... of `from`, zeros beyond its last row and column
template <int ROWS, int DIM>
static __device__ inline void load_tile(const Matrix<const float>& from, long first, float* tile) {
    const bool fours = from.in_fours();
    for (int i = threadIdx.x; i < ROWS * DIM / 4; i += SIDE * SIDE) {
        const int r = i / (DIM / 4), c = i % (DIM / 4) * 4;
        const float* p = from.values + (first + r) * from.stride + c;
        Pack<4> pack = {{0, 0, 0, 0}};
        if (first + r < from.count) {
            if (fours && c < from.dim) pack = load<4>(p);
            for (int k = 0; !fours && k < 4; k++)
                if (c + k < from.dim) pack.v[k] = p[k];
        }
        store(tile + r * (DIM + PAD) + c, pack);
    }
}

// Where a thread's columns begin that belong together, of a tile of DIM columns: four at a time.
static __device__ inline int own_four(int g) { return (threadIdx.x % SIDE + SIDE * g) * 4; }

// rows first ... of `to` = each thread's own part, times `factor`
template <int R, int DIM>
static __device__ inline void store_rows(const float (&part)[R][DIM / SIDE], const float (&factor)[R],
                                         const Matrix<float>& to, long first) {
    const bool fours = to.in_fours();
    for (int i = 0; i < R; i++) {
        const long row = first + own_row(i);
        if (row >= to.count) continue;
        for (int g = 0; g < DIM / SIDE / 4; g++) {
            Pack<4> pack;
            for (int k = 0; k < 4; k++) pack.v[k] = part[i][4 * g + k] * factor[i];
            float* p = to.values + row * to.stride + own_four(g);
            if (fours && own_four(g) < to.dim) store(p, pack);
            for (int k = 0; !fours && k < 4; k++)
                if (own_four(g) + k < to.dim) p[k] = pack.v[k];
        }
    }
}

// out[i][j] = a[own row i] . b[own column j], rows of DIM floats
template <int DIM, int R, int C>
static __device__ inline void rows_by_rows(const float* a, const float* b, float (&out)[R][C]) {
    for (int i = 0; i < R; i++)
        for (int j = 0; j < C; j++) out[i][j] = 0;
    for (int d = 0; d < DIM; d += 4) {
        Pack<4> x[R], y[C];
        for (int i = 0; i < R; i++) x[i] = load<4>(a + own_row(i) * (DIM + PAD) + d);
        for (int j = 0; j < C; j++) y[j] = load<4>(b + own_column(j) * (DIM + PAD) + d);
        for (int i = 0; i < R; i++)
            for (int j = 0; j < C; j++)
                for (int k = 0; k < 4; k++) out[i][j] += x[i].v[k] * y[j].v[k];
    }
}

// out[i] += sum over k of weights[own row i][k] * rows[k], or, transposed, of weights[k][own row i]; weights of
// WIDTH columns, COUNT rows of DIM floats
template <int DIM, int COUNT, int WIDTH, bool TRANSPOSED, int R>
static __device__ inline void weigh_rows(const float* weights, const float* rows, float (&out)[R][DIM / SIDE]) {
    for (int k = 0; k < COUNT; k++)
        for (int g = 0; g < DIM / SIDE / 4; g++) {
            const Pack<4> x = load<4>(rows + k * (DIM + PAD) + own_four(g));
            for (int i = 0; i < R; i++) {
                const float w = weights[TRANSPOSED ? k * (WIDTH + PAD) + own_row(i) : own_row(i) * (WIDTH + PAD) + k];
                for (int e = 0; e < 4; e++) out[i][4 * g + e] += w * x.v[e];
            }
        }
}
