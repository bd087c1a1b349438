// Products in bfloat16: both of their matrices are rounded to it, the nearest, ties to even, and sums are float32.
// Where the processor has no instructions for it, the same numbers are multiplied as floats, which takes longer. After
// bfloat16.h, sgemm.h and projection.h.
#include <memory>

extern "C" int dnnl_gemm_bf16bf16f32(char transa, char transb, long m, long n, long k, float alpha, const Bf16* a, long lda,
                                     const Bf16* b, long ldb, float beta, float* c, long ldc);

// A weight whose products are made so: floats, which are trained and rounded at each use, or Bf16.
template <class T>
struct Halves {
    typedef Bf16 Number;
    const T* values;
};

// Numbers as they are multiplied: rounded here, or rounded before.
struct Rounded {
    std::unique_ptr<Bf16[]> own;
    const Bf16* values;
    Rounded(const float* x, long n) : own(new Bf16[n]), values(own.get()) { round_to_halves(x, n, own.get()); }
    Rounded(const Bf16* x, long n) : values(x) {}
};

static std::unique_ptr<float[]> floats_of(const Bf16* x, long n) {
    std::unique_ptr<float[]> floats(new float[n]);
    #pragma omp parallel for
    for (long i = 0; i < n; i++) floats[i] = x[i];
    return floats;
}

// c [m, n] = beta c + a . b, either of them transposed; a and b are whole matrices, row by row without gaps
static void multiply_halves(char transa, char transb, long m, long n, long k, const Bf16* a, const Bf16* b, float beta,
                            float* c, long ldc) {
    const long lda = transa == 'T' ? m : k, ldb = transb == 'T' ? k : n;
    if (dnnl_gemm_bf16bf16f32(transa, transb, m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc) == 0) return;
    const std::unique_ptr<float[]> x = floats_of(a, m * k), y = floats_of(b, k * n);
    dnnl_sgemm(transa, transb, m, n, k, 1.0f, x.get(), lda, y.get(), ldb, beta, c, ldc);
}

// What projection.h has for products in float32.
template <class T>
static void add_projection(const float* x, const Halves<T>& w, float* y, long rows, long in, long out) {
    const Rounded input(x, rows * in), weight(w.values, in * out);
    multiply_halves('N', 'N', rows, out, in, input.values, weight.values, 1.0f, y, out);
}

template <class T>
static void projection_by_input(const float* dy, const Halves<T>& w, float* dx, long rows, long in, long out, float beta) {
    const Rounded gradient(dy, rows * out), weight(w.values, in * out);
    multiply_halves('N', 'T', rows, in, out, gradient.values, weight.values, beta, dx, in);
}

static void halves_by_weight(const float* x, const float* dy, float* dweight, long rows, long in, long out) {
    const Rounded input(x, rows * in), gradient(dy, rows * out);
    multiply_halves('T', 'N', in, out, rows, input.values, gradient.values, 0.0f, dweight, out);
}

// What head_loss.h asks of a table [vocab, width]: some rows of it, and products with them.
static inline long numbers_for(const Halves<float>&, long count) { return count; }
static inline long numbers_for(const Halves<Bf16>&, long) { return 0; }

static inline const Bf16* rows_of(const Halves<Bf16>& t, long first, long count, long width, Bf16* scratch) {
    return t.values + first * width;
}
static inline const Bf16* rows_of(const Halves<float>& t, long first, long count, long width, Bf16* scratch) {
    round_to_halves(t.values + first * width, count * width, scratch);
    return scratch;
}

static void head_product(char transa, char transb, long m, long n, long k, const float* a, const Bf16* b, float beta,
                         float* c) {
    multiply_halves(transa, transb, m, n, k, Rounded(a, m * k).values, b, beta, c, n);
}

static void head_by_weight(const Halves<float>&, const float* dlogits, const float* hidden, long count, long width, long n,
                           float beta, float* dweight) {
    head_product('T', 'N', count, width, n, dlogits, Rounded(hidden, n * width).values, beta, dweight);
}
