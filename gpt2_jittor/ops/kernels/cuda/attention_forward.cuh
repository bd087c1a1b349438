// Causal attention by tiles, with the softmax online: what was summed so far is scaled down when a larger score
// appears (Dao et al. 2022, FlashAttention, algorithm 1; the backward pass as in FlashAttention-2, with a kernel of its
// own for the gradients by queries, so that nothing is summed in an order that the device chooses). Scores exist in
// shared memory alone. Arguments as in ../attention.h.
//
// Bytes, of a head of T queries and keys of D floats: 16 T D forward and 48 T D backward where the cache holds the
// head's keys and values (8 T D bytes); its tiles of queries read them again, T / 64 times forward, T / 32 backward.
#include "attention_head.cuh"

template <int DIM, int QUERIES, int KEYS>
static __global__ void __launch_bounds__(SIDE * SIDE, 2)
    attention_rows(AttentionShape s, const float* q, long q_stride, const float* k, const float* v, long kv_stride,
                   const int* mask, float* out, float* softmax) {
    constexpr int R = QUERIES / SIDE, C = KEYS / SIDE;
    __shared__ __align__(16) float queries[QUERIES * (DIM + PAD)], kept[KEYS * (DIM + PAD)];
    __shared__ __align__(16) float weights[QUERIES * (KEYS + PAD)];
    const int tiles = (s.queries + QUERIES - 1) / QUERIES;
    const Place at(s, tiles);
    const long first = (long)(tiles - 1 - at.number) * QUERIES;  // the longest first: they see most keys
    const long visible = min(s.keys, min(first + QUERIES, s.queries) + s.past);
    const auto keys = of_head(k, kv_stride, s.keys, at, s), values = of_head(v, kv_stride, s.keys, at, s);
    mask += at.batch * s.keys;
    float sum[R], top[R], part[R][DIM / SIDE];
    for (int i = 0; i < R; i++) {
        sum[i] = 0, top[i] = -1e30f;
        for (int d = 0; d < DIM / SIDE; d++) part[i][d] = 0;
    }
    load_tile<QUERIES, DIM>(of_head(q, q_stride, s.queries, at, s), first, queries);
    for (long begin = 0; begin < visible; begin += KEYS) {
        __syncthreads();  // the tile before is done with
        load_tile<KEYS, DIM>(keys, begin, kept);
        __syncthreads();
        float scores[R][C];
        rows_by_rows<DIM>(queries, kept, scores);
        __syncthreads();  // values take the place of keys
        load_tile<KEYS, DIM>(values, begin, kept);
        for (int i = 0; i < R; i++) {
            const long query = first + own_row(i);
            float highest = top[i];
            for (int j = 0; j < C; j++) {
                scores[i][j] *= s.scale;
                if (sees(s, mask, query, begin + own_column(j)) && !(scores[i][j] <= highest)) highest = scores[i][j];
            }
            highest = side_max(highest);
            const float factor = expf(top[i] - highest);
            top[i] = highest;
            sum[i] *= factor;
            for (int d = 0; d < DIM / SIDE; d++) part[i][d] *= factor;
            for (int j = 0; j < C; j++) {
                const long key = begin + own_column(j);
                const float weight = sees(s, mask, query, key) ? expf(scores[i][j] - highest) : 0.0f;
                sum[i] += weight;
                weights[own_row(i) * (KEYS + PAD) + own_column(j)] = weight * weight_factor(s, at, query, key);
            }
        }
        __syncthreads();
        weigh_rows<DIM, KEYS, KEYS, false>(weights, kept, part);
    }
    for (int i = 0; i < R; i++) {
        const long query = first + own_row(i);
        const float all = side_sum(sum[i]);
        const bool blind = all == 0;
        sum[i] = blind ? 0.0f : 1.0f / all;
        if (threadIdx.x % SIDE == 0 && query < s.queries) {
            float* both = softmax + 2 * (at.head_of_all * s.queries + query);
            both[0] = blind ? 0.0f : top[i];
            both[1] = sum[i];
        }
    }
    store_rows<R, DIM>(part, sum, of_head(out, s.heads * s.dim, s.queries, at, s), first);
}

// out [batch, queries, heads * dim], softmax [batch, heads, queries, 2]. A query that sees nothing yields zeros.
static void attention_forward(const AttentionShape& s, const float* q, long q_stride, const float* k, const float* v,
                              long kv_stride, const int* mask, float* out, float* softmax) {
    const int tile = s.dim <= 64 ? 64 : 32;
    const auto attend = s.dim <= 64 ? attention_rows<64, 64, 32> : attention_rows<WIDEST_HEAD, 32, 32>;
    const long blocks = s.batch * s.heads * divided_up(s.queries, tile);
    attend<<<blocks, SIDE * SIDE>>>(s, q, q_stride, k, v, kv_stride, mask, out, softmax);
}
