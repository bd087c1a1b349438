// What LoRA adds to a projection: y += scaling dropout(x) . A^T . B^T with A [r, in] and B [out, r], and its gradients.
// Dropped inputs exist for some rows at a time, in a thread's own buffer. A weight [in, out] is floats, or Frozen
// (frozen.h). Needs shapes.h, random.h, sgemm.h and projection.h.
#include <algorithm>
#include <cmath>
#include <memory>

static const long LORA_COLUMNS = 64;

// dropped [n, columns] = dropout(x)[first : first + n, column : column + columns]
static void lora_dropped(const Lora& s, const float* x, long first, long n, long column, long columns,
                         float* dropped) {
    for (long i = 0; i < n; i++) {
        const long start = (first + i) * s.in + column;
        for (long j = 0; j < columns; j++)
            dropped[i * columns + j] =
                x[start + j] * dropout_factor(s.seed, (uint32_t)(start + j), s.threshold, s.keep_scale);
    }
}

// low [rows, r] = scaling dropout(x) . A^T, which the gradient by B needs, too
static void lora_low(const Lora& s, const float* x, float* low) {
    #pragma omp parallel
    {
        const std::unique_ptr<float[]> dropped(new float[s.threshold ? TILE_ROWS * s.in : 1]);
        #pragma omp for
        for (long first = 0; first < s.rows; first += TILE_ROWS) {
            const long n = std::min(TILE_ROWS, s.rows - first);
            const float* input = x + first * s.in;
            if (s.threshold) {
                lora_dropped(s, x, first, n, 0, s.in, dropped.get());
                input = dropped.get();
            }
            dnnl_sgemm('N', 'T', n, s.r, s.in, s.scaling, input, s.in, s.a, s.in, 0.0f, low + first * s.r, s.r);
        }
    }
}

// y = x . weight + bias + low . B^T
template <class Weight>
static void lora_forward(const Lora& s, const float* x, const Weight& weight, const float* bias, const float* low,
                         float* y) {
    begun_and_added(Added<Weight>{x, weight, s.rows, s.in, s.out, false}, y, [&](long first, long n) {
        float* tile = y + first * s.out;
        fill_rows(bias, tile, n, s.out);
        dnnl_sgemm('N', 'T', n, s.out, s.r, 1.0f, low + first * s.r, s.r, s.b, s.r, 1.0f, tile, s.out);
    });
}

// dlow [rows, r] = scaling dy . B; db [out, r] = dy^T . low; da [r, in] = dlow^T . dropout(x)
static void lora_backward(const Lora& s, const float* x, const float* dy, const float* low, float* dlow, float* da,
                          float* db) {
    dnnl_sgemm('N', 'N', s.rows, s.r, s.out, s.scaling, dy, s.out, s.b, s.r, 0.0f, dlow, s.r);
    const std::unique_ptr<float[]> across(new float[s.r * s.out]);  // db^T: the faster orientation
    dnnl_sgemm('T', 'N', s.r, s.out, s.rows, 1.0f, low, s.r, dy, s.out, 0.0f, across.get(), s.out);
    for (long j = 0; j < s.out; j++)
        for (long k = 0; k < s.r; k++) db[j * s.r + k] = across[k * s.out + j];
    if (!s.threshold) {
        dnnl_sgemm('T', 'N', s.r, s.in, s.rows, 1.0f, dlow, s.r, x, s.in, 0.0f, da, s.in);
        return;
    }
    const long rows = 1024;
    #pragma omp parallel
    {
        const std::unique_ptr<float[]> dropped(new float[std::min(rows, s.rows) * LORA_COLUMNS]);
        #pragma omp for
        for (long column = 0; column < s.in; column += LORA_COLUMNS) {  // a thread owns its columns of da
            const long columns = std::min(LORA_COLUMNS, s.in - column);
            for (long first = 0; first < s.rows; first += rows) {
                const long n = std::min(rows, s.rows - first);
                lora_dropped(s, x, first, n, column, columns, dropped.get());
                dnnl_sgemm('T', 'N', s.r, columns, n, 1.0f, dlow + first * s.r, s.r, dropped.get(), columns,
                           first ? 1.0f : 0.0f, da + column, s.in);
            }
        }
    }
}

// dx = dy . weight^T + dropout'(dlow . A)
template <class Weight>
static void lora_by_input(const Lora& s, const float* dy, const Weight& weight, const float* dlow, float* dx) {
    begun_and_added(Added<Weight>{dy, weight, s.rows, s.in, s.out, true}, dx, [&](long first, long n) {
        float* tile = dx + first * s.in;
        dnnl_sgemm('N', 'N', n, s.in, s.r, 1.0f, dlow + first * s.r, s.r, s.a, s.in, 0.0f, tile, s.in);
        if (s.threshold) lora_dropped(s, dx, first, n, 0, s.in, tile);
    });
}

// y = factor x + bias, for each column: what DoRA makes of the sum above without its bias
static void lora_scaled(const float* x, const float* factor, const float* bias, float* y, long rows, long out) {
    #pragma omp parallel for
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < out; j++) y[i * out + j] = x[i * out + j] * factor[j] + bias[j];
}

// dx = factor dy; dfactor [out] = the sums of dy x, with x found again as (y - bias) / factor
static void lora_scaled_backward(const float* dy, const float* y, const float* factor, const float* bias, float* dx,
                                 float* dfactor, long rows, long out) {
    #pragma omp parallel for
    for (long first = 0; first < out; first += LORA_COLUMNS) {
        const long n = std::min(LORA_COLUMNS, out - first);
        double sums[LORA_COLUMNS] = {};
        for (long i = 0; i < rows; i++) {
            const long start = i * out + first;
            for (long j = 0; j < n; j++) {
                sums[j] += dy[start + j] * (y[start + j] - bias[first + j]);
                dx[start + j] = dy[start + j] * factor[first + j];
            }
        }
        for (long j = 0; j < n; j++) dfactor[first + j] = (float)(sums[j] / factor[first + j]);
    }
}

// norms [out] = |W + scaling (B A)^T| of each column, whose squares without LoRA are at hand; W [in, out], or [out, in]
// where it is transposed.
static void lora_norms(const Lora& s, const float* weight, bool transposed, const float* squares, float* norms) {
    const std::unique_ptr<float[]> seen(new float[s.r * s.out]), gram(new float[s.r * s.r]);
    dnnl_sgemm('N', transposed ? 'T' : 'N', s.r, s.out, s.in, 1.0f, s.a, s.in, weight, transposed ? s.in : s.out, 0.0f,
               seen.get(), s.out);
    dnnl_sgemm('N', 'T', s.r, s.r, s.in, 1.0f, s.a, s.in, s.a, s.in, 0.0f, gram.get(), s.r);
    #pragma omp parallel for
    for (long j = 0; j < s.out; j++) {
        double cross = 0, own = 0;
        for (long k = 0; k < s.r; k++) {
            const double b = s.b[j * s.r + k];
            cross += b * seen[k * s.out + j];
            for (long l = 0; l < s.r; l++) own += b * gram[k * s.r + l] * s.b[j * s.r + l];
        }
        norms[j] = (float)std::sqrt(squares[j] + 2 * s.scaling * cross + (double)s.scaling * s.scaling * own);
    }
}
