// How a row's next token is chosen, as generation/sampling.py defines it: what the CPU and CUDA read alike. After bits.h.
struct Choice {
    float uniform;  // in [0, 1): where in the cumulated probabilities a token is drawn; below 0: the likeliest is taken
    float temperature;
    float top_k;   // 0: any
    float beyond;  // 1 - top_p, 0: none
    float min_p;
};

static const uint32_t LOWEST_KEY = 0x007fffffu, HIGHEST_KEY = 0xff800000u;  // of -inf and of +inf

// Unsigned integers in the order of the floats; NaN, of either sign, is the largest.
static __device__ inline uint32_t key_of(float x) {
    const uint32_t bits = bits_of(x), size = magnitude(x);
    const uint32_t key = bits == size || size == 0 ? size | 0x80000000u : ~bits;
    return key | -(uint32_t)(size > 0x7f800000u);
}

static __device__ inline float value_of(uint32_t key) {
    return float_of(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

static __device__ inline bool is_finite_key(uint32_t key) { return key > LOWEST_KEY && key < HIGHEST_KEY; }

// The first of low ... high for which `reached` holds; it holds for all after it, or `high` is taken.
template <class T, class Reached>
static __device__ inline T first_of(T low, T high, Reached reached) {
    while (low < high) {
        const T middle = low + (high - low) / 2;
        if (reached(middle))
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

// What may be drawn: logits from the border upwards, and of those that equal it all but the first few.
struct Border {
    uint32_t key;
    long left_out;
};

// Nothing is sorted: a border among logits (the k-th largest; the least likely of those that reach top_p) is found by
// halving the interval that it lies in, some 30 times, as floats have bits.
//
// The logits have keys from `least` to `most`. sum_of(f) is the sum of f(x) over them, mass_of(x) proportional to x's
// probability, and `beneath` the mass of those that are not among them, since the border cannot lie so low.
template <class Sum, class Mass>
static __device__ inline Border find_border(Sum sum_of, Mass mass_of, double beneath, uint32_t least, uint32_t most,
                                            const Choice& choice) {
    uint32_t from = least;
    if (choice.top_k > 0)
        from = first_of(least, most, [=](uint32_t key) {
            const float border = value_of(key);
            return sum_of([=](float x) { return (int)(x > border); }) < choice.top_k;
        });
    const float lowest = value_of(from);
    if (!(choice.beyond > 0)) return {key_of(lowest), 0};  // not `from`, which may be that of -0
    const auto mass_up_to = [=](uint32_t key) {
        const float border = value_of(key);
        return beneath + sum_of([=](float x) { return mass_of(x) * (float)((x >= lowest) & (x <= border)); });
    };
    const double all = mass_up_to(most);
    const auto reached = [=](double mass) { return (float)(mass / all) > choice.beyond; };
    const uint32_t at = first_of(from, most, [=](uint32_t key) { return reached(mass_up_to(key)); });
    const float border = value_of(at);
    const double below = at > from ? mass_up_to(at - 1) : beneath, each = mass_of(border);
    const long equal = sum_of([=](float x) { return (int)(x == border); });
    return {key_of(border), first_of(0L, equal - 1, [=](long i) { return reached(below + (i + 1) * each); })};
}
