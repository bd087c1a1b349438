// Causal attention, a block of queries at a time: the scores of one block live in a thread's own buffer and are
// computed again in the backward pass, so no [time, time] array ever exists. Of a query's softmax two
// numbers are kept, its largest score and 1 / its sum of exponentials (Dao et al. 2022, FlashAttention, algorithm 1
// without the split over keys). Needs shapes.h, exp.h, random.h and sgemm.h.
//
// Rows of q, k, v are `stride` floats apart (3C for the packed c_attn output); head h starts at column h * dim.
// Query i stands at position i + past and sees keys j <= i + past with mask[j] != 0.
#include <algorithm>
#include <memory>

static const long BLOCK = 64;
static const float HIDDEN = -1e30f;  // not -inf: the kernels are compiled with -Ofast

// scores[i, j] = scale * q_i . k_j, HIDDEN at pads: n rows of `visible` columns, of which row i may see the first
// `seen(i)`; the others hold anything.
static void block_scores(const AttentionShape& s, const float* q, long q_stride, const float* k, long k_stride,
                         const int* mask, long first, long n, long visible, float* scores) {
    dnnl_sgemm('N', 'T', n, visible, s.dim, s.scale, q + first * q_stride, q_stride, k, k_stride, 0.0f, scores,
               visible);
    for (long i = 0; i < n; i++) {
        float* row = scores + i * visible;
        const long seen = first + i + s.past + 1;
        for (long j = 0; j < seen; j++) row[j] = mask[j] ? row[j] : HIDDEN;
    }
}

static inline void apply_dropout(const AttentionShape& s, float* row, long n, uint32_t first_index) {
    for (long j = 0; j < n; j++)
        row[j] *= dropout_factor(s.seed, first_index + (uint32_t)j, s.threshold, s.keep_scale);
}

// out [batch, queries, heads * dim], softmax [batch, heads, queries, 2]. A query that sees nothing yields zeros.
static void attention_forward(const AttentionShape& s, const float* q, long q_stride, const float* k, const float* v,
                              long kv_stride, const int* mask, float* out, float* softmax) {
    const long blocks = (s.queries + BLOCK - 1) / BLOCK, width = s.heads * s.dim;
    #pragma omp parallel
    {
        const std::unique_ptr<float[]> scores(new float[BLOCK * s.keys]);
        #pragma omp for schedule(dynamic)
        for (long item = 0; item < s.batch * s.heads * blocks; item++) {
            const long first = item % blocks * BLOCK, bh = item / blocks, b = bh / s.heads, h = bh % s.heads;
            const long n = std::min(BLOCK, s.queries - first);
            const long visible = std::min(s.keys, first + n + s.past);
            const float *qh = q + b * s.queries * q_stride + h * s.dim, *kh = k + b * s.keys * kv_stride + h * s.dim;
            const float* vh = v + b * s.keys * kv_stride + h * s.dim;
            block_scores(s, qh, q_stride, kh, kv_stride, mask + b * s.keys, first, n, visible, scores.get());
            for (long i = 0; i < n; i++) {
                float *row = scores.get() + i * visible, top = HIDDEN, sum = 0;
                const long seen = first + i + s.past + 1;
                for (long j = 0; j < seen; j++) top = row[j] > top ? row[j] : top;
                for (long j = 0; j < seen; j++) sum += row[j] = vector_exp(row[j] - top);
                const bool blind = top <= HIDDEN;
                const float norm = blind ? 0.0f : 1.0f / sum;
                for (long j = 0; j < seen; j++) row[j] *= norm;
                std::fill(row + seen, row + visible, 0.0f);
                float* kept = softmax + 2 * (bh * s.queries + first + i);
                kept[0] = blind ? 0.0f : top;
                kept[1] = norm;
                if (s.threshold) apply_dropout(s, row, seen, (uint32_t)((bh * s.queries + first + i) * s.keys));
            }
            dnnl_sgemm('N', 'N', n, s.dim, visible, 1.0f, scores.get(), visible, vh, kv_stride, 0.0f,
                       out + (b * s.queries + first) * width + h * s.dim, width);
        }
    }
}

// dq, dk, dv are laid out like q, k, v. One thread owns a head: its dk and dv are sums over query blocks.
static void attention_backward(const AttentionShape& s, const float* q, const float* k, const float* v, long stride,
                               const int* mask, const float* out, const float* softmax, const float* dout, float* dq,
                               float* dk, float* dv) {
    const long width = s.heads * s.dim;
    #pragma omp parallel
    {
        const std::unique_ptr<float[]> p(new float[BLOCK * s.keys]), dp(new float[BLOCK * s.keys]);
        #pragma omp for schedule(dynamic)
        for (long bh = 0; bh < s.batch * s.heads; bh++) {
            const long b = bh / s.heads, h = bh % s.heads, base = b * s.queries * stride + h * s.dim;
            for (long first = (s.queries - 1) / BLOCK * BLOCK; first >= 0; first -= BLOCK) {
                const bool last = first + BLOCK >= s.queries;  // sees every key: begins the sums of dk and dv
                const long n = std::min(BLOCK, s.queries - first), visible = first + n;
                const long row0 = (b * s.queries + first) * width + h * s.dim;
                block_scores(s, q + base, stride, k + base, stride, mask + b * s.keys, first, n, visible, p.get());
                dnnl_sgemm('N', 'T', n, visible, s.dim, 1.0f, dout + row0, width, v + base, stride, 0.0f, dp.get(),
                           visible);
                for (long i = 0; i < n; i++) {
                    float *pr = p.get() + i * visible, *dpr = dp.get() + i * visible, dot = 0;
                    const float *kept = softmax + 2 * (bh * s.queries + first + i), top = kept[0], norm = kept[1];
                    const uint32_t index = (uint32_t)((bh * s.queries + first + i) * s.keys);
                    const float *o = out + row0 + i * width, *g = dout + row0 + i * width;
                    for (long d = 0; d < s.dim; d++) dot += o[d] * g[d];
                    const long seen = first + i + s.past + 1;
                    #pragma omp simd
                    for (long j = 0; j < seen; j++) {
                        const float weight = vector_exp(pr[j] - top) * norm;
                        const float factor = dropout_factor(s.seed, index + (uint32_t)j, s.threshold, s.keep_scale);
                        pr[j] = weight * factor;
                        dpr[j] = weight * (dpr[j] * factor - dot);
                    }
                    std::fill(pr + seen, pr + visible, 0.0f);
                    std::fill(dpr + seen, dpr + visible, 0.0f);
                }
                dnnl_sgemm('N', 'N', n, s.dim, visible, s.scale, dp.get(), visible, k + base, stride, 0.0f,
                           dq + base + first * stride, stride);
                dnnl_sgemm('T', 'N', visible, s.dim, n, s.scale, dp.get(), visible, q + base + first * stride,
                           stride, last ? 0.0f : 1.0f, dk + base, stride);
                dnnl_sgemm('T', 'N', visible, s.dim, n, 1.0f, p.get(), visible, dout + row0, width,
                           last ? 0.0f : 1.0f, dv + base, stride);
            }
        }
    }
}
