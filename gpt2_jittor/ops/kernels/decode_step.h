// One new token for each of a few rows: a whole block of GPT-2 as one parallel region, and the head as another.
// Every thread computes its own columns of each product and waits for the others where it needs theirs.
// After vectors.h, products.h, layer_norm.h and gelu_new.h.
#include <omp.h>
#include <vector>

struct Norm {
    const float *weight, *bias;
    float eps;
};

// Keys and values [slots, capacity, width]. Row b finds those of its token j in slot table[b, j] at offset + j; -1 is
// a pad. The last token is the new one, whose keys and values are written there.
struct Cache {
    float *keys, *values;
    const int* table;
    long tokens, capacity, offset;
};

struct Shape {
    long rows, width, heads;
    float scale;
};

static inline void columns_of_thread(long columns, long* first, long* last) {
    const long units = (columns + LANES - 1) / LANES, thread = omp_get_thread_num(), threads = omp_get_num_threads();
    *first = std::min(columns, units * thread / threads * LANES);
    *last = std::min(columns, units * (thread + 1) / threads * LANES);
}

static inline void normalise(const Norm& norm, const float* x, float* y, long rows, long width) {
    for (long r = 0; r < rows; r++) {
        float mean, rstd;
        layer_norm_row(x + r * width, norm.weight, norm.bias, y + r * width, &mean, &rstd, width, norm.eps);
    }
}

static inline float dot(const float* a, const float* b, long n) {
    floats acc = floats{};
    long i = 0;
    for (; i + LANES <= n; i += LANES) acc += load(a + i) * load(b + i);
    float total = sum_of(acc);
    for (; i < n; i++) total += a[i] * b[i];
    return total;
}

// One row's one head: writes the new key and value, then attends. `scores` has room for all tokens.
static void attend(const Shape& s, const Cache& cache, long row, long head, const float* qkv, float* out,
                   float* scores) {
    const long dim = s.width / s.heads, at = head * dim, last = cache.tokens - 1;
    const int* slots = cache.table + row * cache.tokens;
    const float* q = qkv + row * 3 * s.width + at;
    float* to = out + row * s.width + at;
    const long place = ((slots[last] * cache.capacity) + cache.offset + last) * s.width + at;
    std::copy(q + s.width, q + s.width + dim, cache.keys + place);
    std::copy(q + 2 * s.width, q + 2 * s.width + dim, cache.values + place);
    float top = -1e30f, total = 0;
    for (long j = 0; j < cache.tokens; j++) {
        const long from = (slots[j] * cache.capacity + cache.offset + j) * s.width + at;
        scores[j] = slots[j] < 0 ? -1e30f : s.scale * dot(q, cache.keys + from, dim);
        top = std::max(top, scores[j]);
    }
    for (long j = 0; j < cache.tokens; j++) total += scores[j] = std::exp(scores[j] - top);
    std::fill(to, to + dim, 0.0f);
    for (long j = 0; j < cache.tokens; j++) {
        if (slots[j] < 0) continue;
        const float *v = cache.values + (slots[j] * cache.capacity + cache.offset + j) * s.width + at;
        const float weight = scores[j] / total;
        for (long d = 0; d < dim; d++) to[d] += weight * v[d];
    }
}

// y[:, own] = x w + bias, then + more where it is given.
template <class Weight>
static void affine(const Weight& w, const float* bias, const float* x, const float* more, float* y, long rows,
                   long first, long last) {
    product(w, x, rows, y, first, last);
    for (long r = 0; r < rows; r++) {
        float* out = y + r * w.outputs;
        for (long c = first; c < last; c++) out[c] += bias[c];
        if (more)
            for (long c = first; c < last; c++) out[c] += more[r * w.outputs + c];
    }
}

// x [rows, width] -> y [rows, width].
template <class Weight>
static void decode_block(const Shape& s, const Cache& cache, const Norm& ln_1, const Norm& ln_2, const Weight& c_attn,
                         const float* c_attn_bias, const Weight& c_proj, const float* c_proj_bias, const Weight& c_fc,
                         const float* c_fc_bias, const Weight& mlp_proj, const float* mlp_proj_bias, const float* x,
                         float* y) {
    const long rows = s.rows, width = s.width, inner = c_fc.outputs;
    std::vector<float> shared(rows * (5 * width + inner));
    float *qkv = shared.data(), *mixed = qkv + rows * 3 * width, *middle = mixed + rows * width;
    float* hidden = middle + rows * width;
    #pragma omp parallel
    {
        std::vector<float> own(std::max(rows * width, cache.tokens));
        long first, last;
        normalise(ln_1, x, own.data(), rows, width);  // each thread for itself: cheaper than waiting
        columns_of_thread(3 * width, &first, &last);
        affine(c_attn, c_attn_bias, own.data(), nullptr, qkv, rows, first, last);
        #pragma omp barrier
        #pragma omp for schedule(static)
        for (long item = 0; item < rows * s.heads; item++)
            attend(s, cache, item / s.heads, item % s.heads, qkv, mixed, own.data());
        columns_of_thread(width, &first, &last);
        affine(c_proj, c_proj_bias, mixed, x, middle, rows, first, last);
        #pragma omp barrier
        normalise(ln_2, middle, own.data(), rows, width);
        columns_of_thread(inner, &first, &last);
        affine(c_fc, c_fc_bias, own.data(), nullptr, hidden, rows, first, last);
        for (long r = 0; r < rows; r++) gelu_new_row(hidden + r * inner + first, last - first);
        #pragma omp barrier
        columns_of_thread(width, &first, &last);
        affine(mlp_proj, mlp_proj_bias, hidden, middle, y, rows, first, last);
    }
}

// The final norm and the head: x [rows, width], w [vocab, width] -> logits [rows, vocab].
template <class T>
static void decode_head(const Norm& ln_f, const T* w, const float* scales, const float* x, float* logits, long rows,
                        long width, long vocab) {
    #pragma omp parallel
    {
        std::vector<float> own(rows * width);
        long first, last;
        normalise(ln_f, x, own.data(), rows, width);
        columns_of_thread(vocab, &first, &last);
        transposed_product(w, scales, own.data(), rows, width, vocab, logits, first, last);
    }
}
