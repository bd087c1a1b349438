// The backward pass of attention_forward.cuh: its scores are computed again, from what the softmax left.
#include "attention_head.cuh"

// The gradient by a score, before scaling, and the weight that went into the product with the values.
struct ScoreGradient {
    float by_score, dropped;
    __device__ ScoreGradient(const AttentionShape& s, const Place& at, const int* mask, const float* softmax,
                             float delta, long query, long key, float score, float by_weight)
        : by_score(0), dropped(0) {
        if (!sees(s, mask, query, key)) return;
        const float* both = softmax + 2 * (at.head_of_all * s.queries + query);
        const float weight = expf(score * s.scale - both[0]) * both[1], factor = weight_factor(s, at, query, key);
        dropped = weight * factor;
        by_score = weight * (by_weight * factor - delta);
    }
};

// dq, and deltas [batch, heads, queries]: out . dout of each query and head
template <int DIM, int TILE>
static __global__ void __launch_bounds__(SIDE * SIDE, 2)
    attention_by_queries(AttentionShape s, const float* q, const float* k, const float* v, long stride,
                         const int* mask, const float* out, const float* softmax, const float* dout, float* dq,
                         float* deltas) {
    constexpr int R = TILE / SIDE;
    __shared__ __align__(16) float queries[TILE * (DIM + PAD)], gradients[TILE * (DIM + PAD)];
    __shared__ __align__(16) float keys[TILE * (DIM + PAD)], values[TILE * (DIM + PAD)];
    __shared__ __align__(16) float by_scores[TILE * (TILE + PAD)];
    const int tiles = (s.queries + TILE - 1) / TILE;
    const Place at(s, tiles);
    const long first = (long)(tiles - 1 - at.number) * TILE, width = s.heads * s.dim;
    const auto outs = of_head(out, width, s.queries, at, s), douts = of_head(dout, width, s.queries, at, s);
    mask += at.batch * s.keys;
    float delta[R], scale[R], part[R][DIM / SIDE];
    for (int i = 0; i < R; i++) {
        const long query = first + own_row(i);
        float sum = 0;
        if (query < s.queries)
            for (int d = own_column(0); d < s.dim; d += SIDE)
                sum += outs.values[query * width + d] * douts.values[query * width + d];
        delta[i] = side_sum(sum);
        if (own_column(0) == 0 && query < s.queries) deltas[at.head_of_all * s.queries + query] = delta[i];
        scale[i] = s.scale;
        for (int d = 0; d < DIM / SIDE; d++) part[i][d] = 0;
    }
    load_tile<TILE, DIM>(of_head(q, stride, s.queries, at, s), first, queries);
    load_tile<TILE, DIM>(douts, first, gradients);
    for (long begin = 0; begin < min(first + TILE, s.keys); begin += TILE) {
        __syncthreads();
        load_tile<TILE, DIM>(of_head(k, stride, s.keys, at, s), begin, keys);
        load_tile<TILE, DIM>(of_head(v, stride, s.keys, at, s), begin, values);
        __syncthreads();
        float scores[R][R], by_weights[R][R];
        rows_by_rows<DIM>(queries, keys, scores);
        rows_by_rows<DIM>(gradients, values, by_weights);
        for (int i = 0; i < R; i++)
            for (int j = 0; j < R; j++)
                by_scores[own_row(i) * (TILE + PAD) + own_column(j)] =
                    ScoreGradient(s, at, mask, softmax, delta[i], first + own_row(i), begin + own_column(j),
                                  scores[i][j], by_weights[i][j]).by_score;
        __syncthreads();
        weigh_rows<DIM, TILE, TILE, false>(by_scores, keys, part);
    }
    store_rows<R, DIM>(part, scale, of_head(dq, stride, s.queries, at, s), first);
}

template <int DIM, int TILE>
static __global__ void __launch_bounds__(SIDE * SIDE, 2)
    attention_by_keys(AttentionShape s, const float* q, const float* k, const float* v, long stride, const int* mask,
                      const float* softmax, const float* dout, const float* deltas, float* dk, float* dv) {
    constexpr int R = TILE / SIDE;
    __shared__ __align__(16) float queries[TILE * (DIM + PAD)], gradients[TILE * (DIM + PAD)];
    __shared__ __align__(16) float keys[TILE * (DIM + PAD)], values[TILE * (DIM + PAD)];
    __shared__ __align__(16) float by_scores[TILE * (TILE + PAD)], weights[TILE * (TILE + PAD)];
    const int tiles = (s.keys + TILE - 1) / TILE;
    const Place at(s, tiles);
    const long first = (long)at.number * TILE;  // the longest first: the first keys are seen by most queries
    const auto douts = of_head(dout, s.heads * s.dim, s.queries, at, s);
    mask += at.batch * s.keys;
    float scale[R], one[R], by_keys[R][DIM / SIDE], by_values[R][DIM / SIDE];
    for (int i = 0; i < R; i++) {
        scale[i] = s.scale, one[i] = 1;
        for (int d = 0; d < DIM / SIDE; d++) by_keys[i][d] = by_values[i][d] = 0;
    }
    load_tile<TILE, DIM>(of_head(k, stride, s.keys, at, s), first, keys);
    load_tile<TILE, DIM>(of_head(v, stride, s.keys, at, s), first, values);
    for (long begin = first; begin < s.queries; begin += TILE) {
        __syncthreads();
        load_tile<TILE, DIM>(of_head(q, stride, s.queries, at, s), begin, queries);
        load_tile<TILE, DIM>(douts, begin, gradients);
        __syncthreads();
        float scores[R][R], by_weights[R][R];
        rows_by_rows<DIM>(queries, keys, scores);
        rows_by_rows<DIM>(gradients, values, by_weights);
        for (int i = 0; i < R; i++) {
            const long query = begin + own_row(i);
            const float delta = query < s.queries ? deltas[at.head_of_all * s.queries + query] : 0.0f;
            for (int j = 0; j < R; j++) {
                const ScoreGradient g(s, at, mask, softmax, delta, query, first + own_column(j), scores[i][j],
                                      by_weights[i][j]);
                by_scores[own_row(i) * (TILE + PAD) + own_column(j)] = g.by_score;
                weights[own_row(i) * (TILE + PAD) + own_column(j)] = g.dropped;
            }
        }
        __syncthreads();
        weigh_rows<DIM, TILE, TILE, true>(by_scores, queries, by_keys);
        weigh_rows<DIM, TILE, TILE, true>(weights, gradients, by_values);
    }
    store_rows<R, DIM>(by_keys, scale, of_head(dk, stride, s.keys, at, s), first);
    store_rows<R, DIM>(by_values, one, of_head(dv, stride, s.keys, at, s), first);
}

template <int DIM, int TILE>
static void attention_gradients(const AttentionShape& s, const float* q, const float* k, const float* v, long stride,
                                const int* mask, const float* out, const float* softmax, const float* dout, float* dq,
                                float* dk, float* dv) {
    const Scratch deltas(s.batch * s.heads * s.queries);
    const long blocks = s.batch * s.heads * divided_up(s.queries, TILE);
    attention_by_queries<DIM, TILE><<<blocks, SIDE * SIDE>>>(s, q, k, v, stride, mask, out, softmax, dout, dq,
                                                             deltas.values);
    attention_by_keys<DIM, TILE><<<blocks, SIDE * SIDE>>>(s, q, k, v, stride, mask, softmax, dout, deltas.values, dk,
                                                          dv);
}

// dq, dk, dv are laid out like q, k, v: each of its rows is written, whoever was seen.
static void attention_backward(const AttentionShape& s, const float* q, const float* k, const float* v, long stride,
                               const int* mask, const float* out, const float* softmax, const float* dout, float* dq,
                               float* dk, float* dv) {
    if (s.dim <= 64)
        attention_gradients<64, 32>(s, q, k, v, stride, mask, out, softmax, dout, dq, dk, dv);
    else
        attention_gradients<WIDEST_HEAD, 16>(s, q, k, v, stride, mask, out, softmax, dout, dq, dk, dv);
}
