// y = x . weight + bias with a Conv1D's weight [in, out], and its gradients. Needs sgemm.h.
#include <algorithm>
#include <memory>

// y [rows, out], each row the bias (zeros where it is null)
static void fill_rows(const float* bias, float* y, long rows, long out) {
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < out; j++) y[i * out + j] = bias ? bias[j] : 0.0f;
}

// y += x . weight
static void add_projection(const float* x, const float* weight, float* y, long rows, long in, long out) {
    dnnl_sgemm('N', 'N', rows, out, in, 1.0f, x, in, weight, out, 1.0f, y, out);
}

template <class Weight>
static void projection(const float* x, const Weight& weight, const float* bias, float* y, long rows, long in,
                       long out) {
    #pragma omp parallel for
    for (long i = 0; i < rows; i++) fill_rows(bias, y + i * out, 1, out);
    add_projection(x, weight, y, rows, in, out);
}

// dx = beta dx + dy . weight^T. Rows of the weight that lie a multiple of 4 KB apart fall into the same cache sets, and
// reading it across them is a quarter slower: such a weight goes through a copy, some columns at a time.
static void projection_by_input(const float* dy, const float* weight, float* dx, long rows, long in, long out,
                                float beta) {
    if (out % 1024 != 0) {
        dnnl_sgemm('N', 'T', rows, in, out, 1.0f, dy, out, weight, out, beta, dx, in);
        return;
    }
    const long block = 512, stride = block + 16;
    const std::unique_ptr<float[]> columns(new float[in * stride]);
    for (long first = 0; first < out; first += block) {
        #pragma omp parallel for
        for (long i = 0; i < in; i++)
            std::copy_n(weight + i * out + first, block, columns.get() + i * stride);
        dnnl_sgemm('N', 'T', rows, in, block, 1.0f, dy + first, out, columns.get(), stride, first ? 1.0f : beta, dx,
                   in);
    }
}

// dweight = x^T . dy
static void projection_by_weight(const float* x, const float* dy, float* dweight, long rows, long in, long out) {
    dnnl_sgemm('T', 'N', in, out, rows, 1.0f, x, in, dy, out, 0.0f, dweight, out);
}

// x . weight, or x . weight^T where it is `by_input`, to be added to some rows of y after others, while these are in the
// cache: `prepare` some, then `add` them tile by tile, `add_all` at the end. Here the end does it: oneDNN adds as it goes.
template <class Weight>
struct Added {
    const float* x;
    const Weight& weight;
    long rows, in, out;
    bool by_input;

    long at_once() const { return rows; }
    void prepare(long first, long n) {}
    void add(float* y, long first, long n) const {}
    void add_all(float* y) const {
        if (by_input) projection_by_input(x, weight, y, rows, in, out, 1.0f);
        else add_projection(x, weight, y, rows, in, out);
    }
};

static const long TILE_ROWS = 64;

// y = begin(first, n), which writes these rows, + a product
template <class Weight, class Begin>
static void begun_and_added(Added<Weight> product, float* y, Begin begin) {
    const long most = product.at_once();
    for (long start = 0; start < product.rows; start += most) {
        const long end = std::min(product.rows, start + most);
        product.prepare(start, end - start);
        #pragma omp parallel for
        for (long first = start; first < end; first += TILE_ROWS) {
            const long n = std::min(TILE_ROWS, end - first);
            begin(first, n);
            product.add(y, first, n);
        }
    }
    product.add_all(y);
}
