// A token embedding or a head that is kept in fewer bits, [vocab, width]: some of its rows are floats at a time. Of int8
// each row has a scale. After bits.h, half_products.h and frozen.h.

template <class T>
static const float* rows_of(const Frozen<T>& t, long first, long count, long width, float* scratch) {
    #pragma omp parallel for
    for (long k = 0; k < count; k++) {
        float* row = scratch + k * width;
        to_floats(t.values + (first + k) * width, width, row);
        for (long j = 0; t.scales && j < width; j++) row[j] *= t.scales[first + k];
    }
    return scratch;
}

template <class T>
static inline long numbers_for(const Frozen<T>&, long count) {
    return count;
}

// One in int8 whose products are made in bfloat16: its whole numbers are that, too, and the scales of its rows are left to
// what head_loss.h does with the logits.
struct InHalves {
    typedef Bf16 Number;
    const int8_t* values;
    const float* scales;
};

static inline InHalves in_halves(const Frozen<int8_t>& t) { return {t.values, t.scales}; }
static inline const float* scales_of(const InHalves& t) { return t.scales; }
static inline long numbers_for(const InHalves&, long count) { return count; }

static const Bf16* rows_of(const InHalves& t, long first, long count, long width, Bf16* scratch) {
    #pragma omp parallel for
    for (long k = 0; k < count; k++)
        for (long j = 0; j < width; j++) scratch[k * width + j].bits = bits_of(t.values[(first + k) * width + j]) >> 16;
    return scratch;
}

// Calls use(some, first, n) with all rows in turn, n of them at a time as floats.
template <class T, class Use>
static void each_panel(const Frozen<T>& t, long width, long vocab, Use use) {
    const std::unique_ptr<float[]> scratch(new float[std::min(FROZEN_PANEL, vocab) * width]);
    for (long first = 0; first < vocab; first += FROZEN_PANEL) {
        const long n = std::min(FROZEN_PANEL, vocab - first);
        use(rows_of(t, first, n, width, scratch.get()), first, n);
    }
}

// y [rows, vocab] = x [rows, width] . tableT
template <class T>
static void table_logits(const float* x, const Frozen<T>& t, float* y, long rows, long width, long vocab) {
    each_panel(t, width, vocab, [&](const float* some, long first, long n) {
        dnnl_sgemm('N', 'T', rows, n, width, 1.0f, x, width, some, width, 0.0f, y + first, vocab);
    });
}

// dx [rows, width] = dy [rows, vocab] . table
template <class T>
static void table_logits_by_input(const float* dy, const Frozen<T>& t, float* dx, long rows, long width, long vocab) {
    each_panel(t, width, vocab, [&](const float* some, long first, long n) {
        dnnl_sgemm('N', 'N', rows, width, n, 1.0f, dy + first, vocab, some, width, first ? 1.0f : 0.0f, dx, width);
    });
}
