// Cross-entropy of hidden states under an LM head, the vocabulary in blocks, so that no [rows, vocab] array exists and
// a block of the weight is read from memory once for both of its products. The softmax is online: what was summed so
// far is scaled down when a larger logit appears (Dao et al. 2022, FlashAttention, has the same for attention).
//
// The gradient by the hidden states, softmax . weight - weight[target], comes with the loss, for the logits are there
// at that moment. Rows of `weight` that `tokens` names are replaced by `rows`, a block of its own.
// A weight that is kept in fewer bits (frozen_table.h) is turned into floats a block at a time; products may be in bfloat16
// (half_products.h). Needs exp.h and sgemm.h.
#include <algorithm>
#include <cmath>
#include <memory>

static const long VOCAB_BLOCK = 1024, ROW_BLOCK = 1024;
static const float HIDDEN = -1e30f;  // not -inf: the kernels are compiled with -Ofast

// A weight in float32, [vocab, width]
struct FloatTable {
    typedef float Number;
    const float* values;
};

// A weight, as a kernel's call is given it, as the table that it is.
static inline FloatTable table_of(const float* weight) { return {weight}; }
template <class Table, class Number = typename Table::Number>
static inline Table table_of(const Table& weight) { return weight; }

// Rows of it, which may be made in `scratch`, of as many numbers as `numbers_for` says.
static inline const float* rows_of(const FloatTable& t, long first, long count, long width, float* scratch) {
    return t.values + first * width;
}
static inline long numbers_for(const FloatTable&, long) { return 0; }

// c [m, n] = beta c + a . b, either of them transposed, of matrices without gaps
static void head_product(char transa, char transb, long m, long n, long k, const float* a, const float* b, float beta,
                         float* c) {
    const long lda = transa == 'T' ? m : k, ldb = transb == 'T' ? k : n;
    dnnl_sgemm(transa, transb, m, n, k, 1.0f, a, lda, b, ldb, beta, c, n);
}

// By what the rows of a table are multiplied, which rows_of leaves out; null where it leaves nothing out.
template <class Table>
static inline const float* scales_of(const Table&) { return nullptr; }

// dweight [count, width] = beta dweight + dlogits^T . hidden
static void head_by_weight(const FloatTable&, const float* dlogits, const float* hidden, long count, long width, long n,
                           float beta, float* dweight) {
    head_product('T', 'N', count, width, n, dlogits, hidden, beta, dweight);
}

template <class Table>
struct Head {
    const float* hidden;  // [n, width]
    Table weight;         // [vocab, width]
    const int* targets;
    long n, width, vocab;
    const int* tokens;  // whose rows are replaced
    const float* rows;  // [replaced, width]
    long replaced;
};

// logits[i, j] = hidden_i . weight_(first + j), those of replaced tokens hidden; `block` are these rows of the weight
template <class Table, class Number>
static void block_logits(const Head<Table>& s, const Number* block, long first, long count, float* logits) {
    head_product('N', 'T', s.n, count, s.width, s.hidden, block, 0.0f, logits);
    for (long t = 0; t < s.replaced; t++) {
        const long column = s.tokens[t] - first;
        if (column >= 0 && column < count)
            for (long i = 0; i < s.n; i++) logits[i * count + column] = HIDDEN;
    }
}

template <class Table>
static void replaced_logits(const Head<Table>& s, float* logits) {
    head_product('N', 'T', s.n, s.replaced, s.width, s.hidden, s.rows, 0.0f, logits);
}

// Where a row's target stands in a block, -1: elsewhere.
template <class Table>
static inline long target_column(const Head<Table>& s, long i, long first, long count, bool replaced) {
    if (replaced) {
        for (long t = 0; t < count; t++)
            if (s.tokens[t] == s.targets[i]) return t;
        return -1;
    }
    const long column = s.targets[i] - first;
    return column >= 0 && column < count ? column : -1;
}

// Takes up a block: logits become exponentials; each row's largest logit, sum, target and gradient follow.
template <class Table, class Number>
static void take_block(const Head<Table>& s, long first, long count, bool replaced, const Number* weight, float* logits,
                       float* stats, float* at_target, float* gradient) {
    const bool start = first == 0 && !replaced;
    const float* scales = replaced || !scales_of(s.weight) ? nullptr : scales_of(s.weight) + first;
    #pragma omp parallel for
    for (long i = 0; i < s.n; i++) {
        float *row = logits + i * count, top = start ? HIDDEN : stats[2 * i], sum = 0;
        for (long j = 0; scales && j < count; j++) row[j] *= scales[j];
        const long column = target_column(s, i, first, count, replaced);
        if (column >= 0) at_target[i] = row[column];  // a replaced token's comes last, with its own row
        const float before = top;
        for (long j = 0; j < count; j++) top = row[j] > top ? row[j] : top;
        for (long j = 0; j < count; j++) sum += row[j] = vector_exp(row[j] - top);
        for (long j = 0; scales && j < count; j++) row[j] *= scales[j];
        const float factor = start ? 0.0f : vector_exp(before - top);
        stats[2 * i] = top;
        stats[2 * i + 1] = start ? sum : stats[2 * i + 1] * factor + sum;
        if (gradient && !start && factor != 1.0f)
            for (long c = 0; c < s.width; c++) gradient[i * s.width + c] *= factor;
    }
    if (gradient) head_product('N', 'N', s.n, s.width, count, logits, weight, start ? 0.0f : 1.0f, gradient);
}

// loss [n]; stats [n, 2]: the largest logit, the sum of exponentials; gradient [n, width], or null;
// by_replaced [n, replaced]: the gradient by the logits of the replaced tokens.
template <class Table>
static void head_loss_some(const Head<Table>& s, float* loss, float* stats, float* gradient, float* by_replaced) {
    typedef typename Table::Number Number;
    const std::unique_ptr<float[]> logits(new float[s.n * std::min(VOCAB_BLOCK, s.vocab)]), at_target(new float[s.n]);
    const std::unique_ptr<Number[]> scratch(
        new Number[numbers_for(s.weight, std::min(VOCAB_BLOCK, s.vocab) * s.width)]);
    for (long first = 0; first < s.vocab; first += VOCAB_BLOCK) {
        const long count = std::min(VOCAB_BLOCK, s.vocab - first);
        const Number* block = rows_of(s.weight, first, count, s.width, scratch.get());
        block_logits(s, block, first, count, logits.get());
        take_block(s, first, count, false, block, logits.get(), stats, at_target.get(), gradient);
    }
    if (s.replaced) {
        replaced_logits(s, by_replaced);
        take_block(s, 0, s.replaced, true, s.rows, by_replaced, stats, at_target.get(), gradient);
    }
    #pragma omp parallel for
    for (long i = 0; i < s.n; i++) {
        const std::unique_ptr<Number[]> own(new Number[numbers_for(s.weight, s.width)]);
        // the difference first, in one float: in a log-sum-exp the larger would take the digits of the smaller
        const volatile float below_top = at_target[i] - stats[2 * i];
        const float norm = 1.0f / stats[2 * i + 1];
        loss[i] = std::log(stats[2 * i + 1]) - below_top;
        const long t = s.replaced ? target_column(s, i, 0, s.replaced, true) : -1;
        for (long j = 0; j < s.replaced; j++) by_replaced[i * s.replaced + j] *= norm;
        if (t >= 0) by_replaced[i * s.replaced + t] -= 1.0f;
        const Number* target = rows_of(s.weight, s.targets[i], 1, s.width, own.get());
        const float scale = scales_of(s.weight) ? scales_of(s.weight)[s.targets[i]] : 1.0f;
        for (long c = 0; gradient && c < s.width; c++)
            gradient[i * s.width + c] =
                gradient[i * s.width + c] * norm - (t >= 0 ? s.rows[t * s.width + c] : scale * (float)target[c]);
    }
}

template <class Table>
static void head_loss_forward(const Head<Table>& all, float* loss, float* stats, float* gradient, float* by_replaced) {
    for (long first = 0; first < all.n; first += ROW_BLOCK) {
        Head<Table> s = all;
        s.n = std::min(ROW_BLOCK, all.n - first);
        s.hidden += first * s.width;
        s.targets += first;
        head_loss_some(s, loss + first, stats + 2 * first, gradient ? gradient + first * s.width : nullptr,
                       by_replaced + first * s.replaced);
    }
}

// dweight [vocab, width] = (dloss (softmax - onehot))^T . hidden; the logits are computed again.
template <class Table>
static void head_loss_by_weight(const Head<Table>& s, const float* stats, const float* dloss, float* dweight) {
    typedef typename Table::Number Number;
    const long rows = std::min(ROW_BLOCK, s.n), most = std::min(VOCAB_BLOCK, s.vocab);
    const std::unique_ptr<float[]> logits(new float[rows * most]);
    const std::unique_ptr<Number[]> scratch(new Number[numbers_for(s.weight, most * s.width)]);
    for (long first = 0; first < s.vocab; first += VOCAB_BLOCK) {
        const long count = std::min(VOCAB_BLOCK, s.vocab - first);
        const Number* block = rows_of(s.weight, first, count, s.width, scratch.get());
        for (long start = 0; start < s.n; start += ROW_BLOCK) {
            Head<Table> some = s;
            some.n = std::min(ROW_BLOCK, s.n - start);
            some.hidden += start * s.width;
            some.targets += start;
            block_logits(some, block, first, count, logits.get());
            #pragma omp parallel for
            for (long i = 0; i < some.n; i++) {
                const float top = stats[2 * (start + i)], scale = dloss[start + i] / stats[2 * (start + i) + 1];
                float* row = logits.get() + i * count;
                for (long j = 0; j < count; j++) row[j] = scale * vector_exp(row[j] - top);
                const long column = target_column(some, i, first, count, false);
                if (column >= 0) row[column] -= dloss[start + i];
            }
            head_by_weight(s.weight, logits.get(), some.hidden, count, s.width, some.n, start ? 1.0f : 0.0f,
                           dweight + first * s.width);
        }
    }
}
