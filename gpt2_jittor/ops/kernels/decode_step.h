// One new token for each of a few rows, through the whole of GPT-2, as one parallel region: every thread computes its
// own columns of each product and waits for the others where it needs theirs.
// After shapes.h, exp.h, vectors.h, products.h, whole_products.h, layer_norm.h and gelu_new.h.
#include <memory>
#include <omp.h>
#include <vector>

static const long HEAD_ROWS = 512;
static const float HIDDEN_SCORE = -1e30f;  // softmax turns it into 0; not -inf: compiled with -Ofast

// What the parts of a step take, as the first thread sees them, which waits wherever all of them wait.
enum Part { EMBEDDING, NORMS, C_ATTN, ATTENTION, C_PROJ, C_FC, MLP_PROJ, HEAD, PARTS };

struct Clock {
    float* seconds;  // [PARTS], nullptr where nobody wants to know
    double last;

    explicit Clock(float* seconds) : seconds(seconds), last(omp_get_wtime()) {
        if (seconds) std::fill_n(seconds, PARTS, 0.0f);
    }

    // This part ends here.
    void stop(Part part) {
        if (!seconds || omp_get_thread_num()) return;
        const double now = omp_get_wtime();
        seconds[part] += now - last;
        last = now;
    }
};

static inline void columns_of_thread(long columns, long* first, long* last) {
    const long units = (columns + PAIR - 1) / PAIR, thread = omp_get_thread_num(), threads = omp_get_num_threads();
    *first = std::min(columns, units * thread / threads * PAIR);
    *last = std::min(columns, units * (thread + 1) / threads * PAIR);
}

static inline float dot(const float* a, const float* b, long n) {
    floats acc = floats{};
    long i = 0;
    for (; i + LANES <= n; i += LANES) acc += load(a + i) * load(b + i);
    float total = sum_of(acc);
    for (; i < n; i++) total += a[i] * b[i];
    return total;
}

static inline void normalise(const Step& s, const Norm& norm, const float* x, float* y) {
    float mean, rstd;
    for (long r = 0; r < s.rows; r++)
        layer_norm_row(x + r * s.width, norm.weight, norm.bias, y + r * s.width, &mean, &rstd, s.width, s.eps);
}

// x = the token's row + the position's.
template <class T>
static void embed(const Step& s, const Table<T>& tokens, const float* positions, float* x) {
    #pragma omp for schedule(static)
    for (long r = 0; r < s.rows; r++) {
        const T* token = tokens.values + s.ids[r] * s.width;
        const float *position = positions + s.positions[r] * s.width, scale = tokens.scales ? tokens.scales[s.ids[r]] : 1;
        for (long c = 0; c < s.width; c++) x[r * s.width + c] = token[c] * scale + position[c];
    }
}

// Some heads of one row: writes their new keys and values, then attends. Heads lie side by side, and a row's tokens, as a
// rule, one behind the other: keys, then values, are read from end to end. `scores` holds all tokens for each head.
static void attend(const Step& s, float scale, float* keys, float* values, long row, Range heads, const float* qkv,
                   float* out, float* scores) {
    const long dim = s.width / s.heads, at = heads.first * dim, count = heads.last - heads.first;
    const int* slots = s.table + row * s.tokens;
    const float* q = qkv + row * 3 * s.width + at;
    const auto place = [&](long j) { return (slots[j] * s.capacity + s.offset + j) * s.width + at; };
    std::copy_n(q + s.width, count * dim, keys + place(s.tokens - 1));
    std::copy_n(q + 2 * s.width, count * dim, values + place(s.tokens - 1));
    float* mixed = out + row * s.width + at;
    std::fill_n(mixed, count * dim, 0.0f);
    for (long j = 0; j < s.tokens; j++) {
        const float* k = keys + (slots[j] < 0 ? 0 : place(j));
        for (long h = 0; h < count; h++)
            scores[h * s.tokens + j] = slots[j] < 0 ? HIDDEN_SCORE : scale * dot(q + h * dim, k + h * dim, dim);
    }
    for (long h = 0; h < count; h++) {
        float *of_head = scores + h * s.tokens, top = HIDDEN_SCORE, total = 0;
        for (long j = 0; j < s.tokens; j++) top = std::max(top, of_head[j]);
        for (long j = 0; j < s.tokens; j++) total += of_head[j] = vector_exp(of_head[j] - top);
        for (long j = 0; j < s.tokens; j++) of_head[j] *= 1 / total;
    }
    for (long j = 0; j < s.tokens; j++) {
        if (slots[j] < 0) continue;
        const float* v = values + place(j);
        for (long h = 0; h < count; h++) {
            const float weight = scores[h * s.tokens + j];
            #pragma GCC ivdep  // what is read and what is written do not overlap
            for (long d = h * dim; d < (h + 1) * dim; d++) mixed[d] += weight * v[d];
        }
    }
}

// All heads of all rows, which the threads share out; a thread takes as many of a row as it can.
static void attend_all(const Step& s, float scale, float* keys, float* values, const float* qkv, float* out,
                       float* scores) {
    const long threads = omp_get_num_threads(), shares = s.rows % threads ? std::min(threads, s.heads) : 1;
    #pragma omp for schedule(static)
    for (long item = 0; item < s.rows * shares; item++) {
        const long share = item % shares;
        const Range heads = {s.heads * share / shares, s.heads * (share + 1) / shares};
        attend(s, scale, keys, values, item / shares, heads, qkv, out, scores);
    }
}

// y = x w in this thread's columns. Each thread reads its share of the weight's rows, from end to end; where threads are
// so many that their parts would be as large as the weight, only its columns. `parts` holds every thread's part of
// the sums; a barrier must follow before it is used again.
static void own_columns(const Plain& w, const float* x, float* y, long rows, long first, long last, float* parts) {
    const long thread = omp_get_thread_num(), threads = omp_get_num_threads(), size = rows * w.outputs;
    if (4 * threads * rows > w.inputs) {
        part_of_product(w, x, rows, y, {0, w.inputs}, {first, last});
        return;
    }
    const Range share = {w.inputs * thread / threads, w.inputs * (thread + 1) / threads};
    part_of_product(w, x, rows, parts + thread * size, share, {0, w.outputs});
    #pragma omp barrier
    for (long r = 0; r < rows; r++)
        for (long c = first; c < last; c++) {
            float sum = 0;
            for (long t = 0; t < threads; t++) sum += parts[t * size + r * w.outputs + c];
            y[r * w.outputs + c] = sum;
        }
}

static void own_columns(const Panels& w, const float* x, float* y, long rows, long first, long last, float*) {
    product(w, x, rows, y, first, last);
}

// Each thread makes whole numbers of all of x for itself: cheaper than waiting.
static void own_columns(const Rows& w, const float* x, float* y, long rows, long first, long last, float*) {
    product(w, Wholes(x, rows, w.inputs), rows, y, first, last);
}

// What a head is multiplied with, made of x [rows, width], and columns [first, last) of the product.
template <class T>
static const float* for_head(const Table<T>& head, float* x, long rows, long width) {
    for (long r = 0; r < rows; r++) arrange(head.values, x + r * width, width);
    return x;
}

static Wholes for_head(const Table<int8_t>&, float* x, long rows, long width) { return Wholes(x, rows, width); }

template <class T>
static void head_columns(const Table<T>& head, const float* x, const Step& s, float* y, long first, long last) {
    transposed_product(head.values, x, s.rows, s.width, head.rows, y, first, last);
}

static void head_columns(const Table<int8_t>& head, const Wholes& x, const Step& s, float* y, long first, long last) {
    product({head.values, head.scales, s.width, head.rows}, x, s.rows, y, first, last);
}

// y += what LoRA adds in this thread's columns. Each thread makes the few products with a for itself: cheaper than waiting.
static void add_lora(const RowLora& lora, const float* x, float* y, long rows, long inputs, long outputs, long first,
                     long last) {
    for (long r = 0; r < rows; r++)
        for (long k = lora.spans[2 * r]; k < lora.spans[2 * r + 1]; k++) {
            const float low = dot(x + r * inputs, lora.a + k * inputs, inputs), *b = lora.b + k * outputs;
            for (long c = first; c < last; c++) y[r * outputs + c] += low * b[c];
        }
}

// y = x w + bias (+ more) in this thread's columns, which are returned.
template <class Weight>
static void affine(const Projection<Weight>& p, const float* x, const float* more, float* y, long rows, float* parts,
                   long* first, long* last) {
    const long outputs = p.weight.outputs;
    columns_of_thread(outputs, first, last);
    own_columns(p.weight, x, y, rows, *first, *last, parts);
    if (p.lora.a) add_lora(p.lora, x, y, rows, p.weight.inputs, outputs, *first, *last);
    for (long r = 0; r < rows; r++) {
        for (long c = *first; c < *last; c++) y[r * outputs + c] += p.bias[c];
        if (more)
            for (long c = *first; c < *last; c++) y[r * outputs + c] += more[r * outputs + c];
    }
}

// x [rows, width] becomes what the block makes of it. `own` is this thread's, the others are shared.
template <class Weight>
static void decode_block(const Step& s, const Block<Weight>& block, float scale, float* x, float* qkv, float* mixed,
                         float* middle, float* hidden, float* parts, float* own, Clock& clock) {
    long first, last;
    normalise(s, block.ln_1, x, own);  // each thread for itself: cheaper than waiting
    clock.stop(NORMS);
    affine(block.c_attn, own, nullptr, qkv, s.rows, parts, &first, &last);
    #pragma omp barrier
    clock.stop(C_ATTN);
    attend_all(s, scale, block.keys, block.values, qkv, mixed, own);
    clock.stop(ATTENTION);
    affine(block.c_proj, mixed, x, middle, s.rows, parts, &first, &last);
    #pragma omp barrier
    clock.stop(C_PROJ);
    normalise(s, block.ln_2, middle, own);
    clock.stop(NORMS);
    affine(block.c_fc, own, nullptr, hidden, s.rows, parts, &first, &last);
    for (long r = 0; r < s.rows; r++) gelu_new_row(hidden + r * s.inner + first, last - first);
    #pragma omp barrier
    clock.stop(C_FC);
    affine(block.mlp_proj, hidden, middle, x, s.rows, parts, &first, &last);
    #pragma omp barrier
    clock.stop(MLP_PROJ);
}

// logits [rows, head.rows]; where they are wanted, the seconds of each Part
template <class Weight, class T, class U>
static void decode_step(const Step& s, const Table<T>& tokens, const float* positions, const Block<Weight>* blocks,
                        const float* scales, long layers, const Norm& ln_f, const Table<U>& head, float* logits,
                        float* seconds = nullptr) {
    std::vector<float> shared(s.rows * (6 * s.width + s.inner));
    float *x = shared.data(), *qkv = x + s.rows * s.width, *mixed = qkv + s.rows * 3 * s.width;
    float *middle = mixed + s.rows * s.width, *hidden = middle + s.rows * s.width;
    const long widest = std::max(3 * s.width, s.inner);
    const std::unique_ptr<float[]> parts(new float[omp_get_max_threads() * s.rows * widest]);
    Clock clock(seconds);
    #pragma omp parallel
    {
        std::vector<float> own(std::max(s.rows * s.width, s.heads * s.tokens));
        embed(s, tokens, positions, x);
        clock.stop(EMBEDDING);
        for (long layer = 0; layer < layers; layer++)
            decode_block(s, blocks[layer], scales[layer], x, qkv, mixed, middle, hidden, parts.get(), own.data(),
                         clock);
        normalise(s, ln_f, x, own.data());
        const auto given = for_head(head, own.data(), s.rows, s.width);
        clock.stop(NORMS);
        #pragma omp for schedule(dynamic)  // a third of all weights: whoever is ahead takes more, which changes no sum
        for (long j = 0; j < head.rows; j += HEAD_ROWS)
            head_columns(head, given, s, logits, j, std::min(head.rows, j + HEAD_ROWS));
        clock.stop(HEAD);
    }
}
