// Layer normalisation over the last axis, a warp for each row, as in ../layer_norm.h. A row is read from memory once
// and stands in shared memory for the further passes, up to 12,288 floats; a longer one is read again.
// Bytes, of a row of C floats: forward 8 C + 8, backward 12 C + 8; the affine gradients 8 C + 8, and
// 16 C for each of the at most 64 parts that the rows are summed in.
#include "common.cuh"

static const int MOST_WARPS = 4;

// A block's warps, each with a row of `floats` floats in shared memory, and how much of that there is.
struct RowBlocks {
    int warps;
    size_t shared;
    explicit RowBlocks(long floats) {
        const size_t row = floats * sizeof(float);
        warps = row > SHARED_MEMORY ? MOST_WARPS : (int)std::min((size_t)MOST_WARPS, SHARED_MEMORY / row);
        shared = row > SHARED_MEMORY ? 0 : warps * row;
    }
};

template <int N>
static __global__ void layer_norm_rows(const float* x, const float* weight, const float* bias, float* y, float* mean,
                                       float* rstd, long rows, long width, float eps, bool cached) {
    extern __shared__ __align__(16) float cache[];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const long row = (long)blockIdx.x * (blockDim.x / WARP) + warp;
    if (row >= rows) return;  // a warp leaves as a whole, and there are no barriers
    x += row * width;
    y += row * width;
    float* kept = cache + warp * width;  // each lane reads again what it wrote itself
    float sum = 0, rest = 0, squares = 0;
    for (long c = lane * N; c < width; c += WARP * N) {
        const Pack<N> p = load<N>(x + c);
        if (cached) store<N>(kept + c, p);
        for (int k = 0; k < N; k++) sum += p.v[k];
    }
    const float* again = cached ? kept : x;
    const float rough = warp_sum(sum) / width;
    for (long c = lane * N; c < width; c += WARP * N) {
        const Pack<N> p = load<N>(again + c);
        for (int k = 0; k < N; k++) {
            rest += p.v[k] - rough;
            squares += (p.v[k] - rough) * (p.v[k] - rough);
        }
    }
    const float correction = warp_sum(rest) / width;  // what rounding took from a large mean
    const float m = rough + correction;
    const float s = 1.0f / sqrtf(warp_sum(squares) / width - correction * correction + eps);
    for (long c = lane * N; c < width; c += WARP * N) {
        Pack<N> p = load<N>(again + c);
        const Pack<N> w = load<N>(weight + c), b = load<N>(bias + c);
        for (int k = 0; k < N; k++) p.v[k] = (p.v[k] - m) * s * w.v[k] + b.v[k];
        store<N>(y + c, p);
    }
    if (lane == 0) {
        mean[row] = m;
        rstd[row] = s;
    }
}

static void layer_norm_forward(const float* x, const float* weight, const float* bias, float* y, float* mean,
                               float* rstd, long rows, long width, float eps) {
    const RowBlocks block(width);
    const bool fours = width % 4 == 0 && in_fours({x, weight, bias, y});
    const auto normalise = fours ? layer_norm_rows<4> : layer_norm_rows<1>;
    const long blocks = divided_up(rows, block.warps);
    normalise<<<blocks, block.warps * WARP, block.shared>>>(x, weight, bias, y, mean, rstd, rows, width, eps,
                                                            block.shared > 0);
}

// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) with g = dy * weight
template <int N>
static __global__ void layer_norm_rows_gradient(const float* dy, const float* x, const float* weight,
                                                const float* mean, const float* rstd, float* dx, long rows, long width,
                                                bool cached) {
    extern __shared__ __align__(16) float cache[];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const long row = (long)blockIdx.x * (blockDim.x / WARP) + warp;
    if (row >= rows) return;
    dy += row * width;
    x += row * width;
    dx += row * width;
    float *kept_dy = cache + 2 * warp * width, *kept_x = kept_dy + width;
    const float m = mean[row], s = rstd[row];
    float sum_g = 0, sum_gx = 0;
    for (long c = lane * N; c < width; c += WARP * N) {
        const Pack<N> d = load<N>(dy + c), p = load<N>(x + c), w = load<N>(weight + c);
        if (cached) {
            store<N>(kept_dy + c, d);
            store<N>(kept_x + c, p);
        }
        for (int k = 0; k < N; k++) {
            const float g = d.v[k] * w.v[k];
            sum_g += g;
            sum_gx += g * (p.v[k] - m) * s;
        }
    }
    sum_g = warp_sum(sum_g) / width;
    sum_gx = warp_sum(sum_gx) / width;
    for (long c = lane * N; c < width; c += WARP * N) {
        const Pack<N> d = load<N>(cached ? kept_dy + c : dy + c), w = load<N>(weight + c);
        Pack<N> p = load<N>(cached ? kept_x + c : x + c);
        for (int k = 0; k < N; k++) p.v[k] = s * (d.v[k] * w.v[k] - sum_g - (p.v[k] - m) * s * sum_gx);
        store<N>(dx + c, p);
    }
}

static void layer_norm_backward(const float* dy, const float* x, const float* weight, const float* mean,
                                const float* rstd, float* dx, long rows, long width) {
    const RowBlocks block(2 * width);
    const bool fours = width % 4 == 0 && in_fours({dy, x, weight, dx});
    const auto normalise_gradient = fours ? layer_norm_rows_gradient<4> : layer_norm_rows_gradient<1>;
    const long blocks = divided_up(rows, block.warps);
    normalise_gradient<<<blocks, block.warps * WARP, block.shared>>>(dy, x, weight, mean, rstd, dx, rows, width,
                                                                     block.shared > 0);
}

// The sums over rows, in parts that do not depend on the device: part p of columns c is one block's, in shared memory
// at the end. Added up in order, they give the same bits on every run.
static const int STRIP = 32, STRIP_ROWS = THREADS / STRIP;

static __global__ void layer_norm_affine_parts(const float* dy, const float* x, const float* mean, const float* rstd,
                                               float* parts, long rows, long width, long rows_each) {
    __shared__ float sums[2][STRIP_ROWS][STRIP];
    const int column = threadIdx.x % STRIP, line = threadIdx.x / STRIP;
    const long c = (long)blockIdx.x * STRIP + column;
    const long end = min((blockIdx.y + 1) * rows_each, rows);
    float dw = 0, db = 0;
    if (c < width)
        for (long r = blockIdx.y * rows_each + line; r < end; r += STRIP_ROWS) {
            const float d = dy[r * width + c];
            dw += d * (x[r * width + c] - mean[r]) * rstd[r];
            db += d;
        }
    sums[0][line][column] = dw;
    sums[1][line][column] = db;
    __syncthreads();
    if (line < 2 && c < width) {  // one line of threads for dweight, one for dbias
        float sum = 0;
        for (int k = 0; k < STRIP_ROWS; k++) sum += sums[line][k][column];
        parts[(blockIdx.y * 2 + line) * width + c] = sum;
    }
}

static __global__ void layer_norm_affine_sums(const float* parts, float* dweight, float* dbias, long count,
                                              long width) {
    const long c = (long)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= 2 * width) return;
    float sum = 0;
    for (long p = 0; p < count; p++) sum += parts[p * 2 * width + c];
    (c < width ? dweight : dbias - width)[c] = sum;
}

static void layer_norm_backward_affine(const float* dy, const float* x, const float* mean, const float* rstd,
                                       float* dweight, float* dbias, long rows, long width) {
    const long rows_each = std::max(64L, divided_up(rows, 64)), count = divided_up(rows, rows_each);
    const Scratch parts(count * 2 * width);
    const dim3 grid(divided_up(width, STRIP), count);
    layer_norm_affine_parts<<<grid, THREADS>>>(dy, x, mean, rstd, parts.values, rows, width, rows_each);
    layer_norm_affine_sums<<<divided_up(2 * width, THREADS), THREADS>>>(parts.values, dweight, dbias, count, width);
}
