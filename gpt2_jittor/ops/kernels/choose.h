// Each row's next token, from its logits: a thread for each row. After exp.h, bits.h and choice.h.
//
// A border is looked for among the few logits above a bound that it cannot lie below.
// Bytes, of a row of V logits: 16 V greedy, of which the cache holds three quarters; else some 50 V.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <vector>

static const long PART = 512;  // what is looked for is looked for in parts of a row, by vectors, then in one of them

static inline uint32_t highest_key(const float* x, long n) {
    uint32_t highest = 0;
    for (long i = 0; i < n; i++) highest = std::max(highest, key_of(x[i]));
    return highest;
}

// Where a row's highest key stands first.
static inline long likeliest(const float* x, uint32_t highest, long n) {
    long i = 0;
    while (highest_key(x + i, std::min(PART, n - i)) != highest) i += PART;
    while (key_of(x[i]) != highest) i++;
    return i;
}

// The sum of f(x); of floats in double precision where there are many.
template <class F>
static inline double sum_over(const float* x, long n, F f) {
    double sum = 0;
    for (long begin = 0; begin < n; begin += PART) {
        decltype(f(0.0f)) own = 0;
        for (long i = begin; i < std::min(n, begin + PART); i++) own += f(x[i]);
        sum += own;
    }
    return sum;
}

static inline double sum_of(const float* x, long n) {
    return sum_over(x, n, [](float value) { return value; });
}

static inline void exponentials(const float* x, float top, float* masses, long n) {
    for (long i = 0; i < n; i++) masses[i] = vector_exp(x[i] - top);
}

// The values of x that are at least `bound`.
static std::vector<float> from_bound(const float* x, float bound, long n) {
    std::vector<float> found;
    for (long begin = 0; begin < n; begin += PART) {
        const long size = std::min(PART, n - begin);
        if (value_of(highest_key(x + begin, size)) < bound) continue;
        std::copy_if(x + begin, x + begin + size, std::back_inserter(found), [=](float y) { return y >= bound; });
    }
    return found;
}

// What the border cannot lie below.
static float bound_of_border(const float* scaled, float top, double all, long n, const Choice& choice) {
    float below = 1;  // the maximum
    if (choice.top_k > 0) {
        const auto among_them = [&](float x) { return (int)(x >= top - below); };
        while (below < 1e38f && sum_over(scaled, n, among_them) < choice.top_k) below *= 2;
    } else {
        // n of this mass would not reach beyond; a little lower, for what logarithm and exponential round
        below = 1e-4f - std::log(choice.beyond * all / n);
    }
    return std::max(top - below, std::numeric_limits<float>::lowest());
}

// Takes the mass from those that the options leave out.
static void leave_out(const float* scaled, float top, float* masses, long n, const Choice& choice) {
    if (choice.top_k > 0 || choice.beyond > 0) {
        const double all = choice.top_k > 0 ? 0 : sum_of(masses, n);  // what is beneath top_k's bound counts for nothing
        const float bound = bound_of_border(scaled, top, all, n, choice);
        const std::vector<float> candidates = from_bound(scaled, bound, n);
        const float* values = candidates.data();
        const long count = candidates.size();
        const auto over_candidates = [=](auto f) { return sum_over(values, count, f); };
        const auto mass_of = [=](float x) { return vector_exp(x - top); };
        const double beneath = choice.top_k > 0 ? 0 : all - over_candidates(mass_of);
        Border border = find_border(over_candidates, mass_of, beneath, key_of(bound), key_of(top), choice);
        const float least = value_of(border.key);
        for (long i = 0; i < n; i++) masses[i] = scaled[i] < least ? 0 : masses[i];
        for (long i = 0; border.left_out > 0; i++)
            if (scaled[i] == least) masses[i] = 0, border.left_out--;
    }
    for (long i = 0; i < n; i++) masses[i] = masses[i] < choice.min_p ? 0 : masses[i];
}

// The id at `uniform`, of [0, 1), of the cumulated masses.
static long at_number(const float* masses, long n, double uniform) {
    std::vector<double> sums;
    double all = 0;
    for (long begin = 0; begin < n; begin += PART) {
        sums.push_back(sum_of(masses + begin, std::min(PART, n - begin)));
        all += sums.back();
    }
    const double point = std::min(uniform * all, std::nextafter(all, 0.0));  // as float, 1 - 1e-9 is 1
    double before = 0;
    long last = 0;  // should the sums of parts and those within them round to different sides of the point
    for (size_t part = 0; part < sums.size(); before += sums[part++]) {
        if (!(sums[part] > 0) || (before + sums[part] <= point && part + 1 < sums.size())) continue;
        double sum = before;
        for (long i = part * PART; i < std::min(n, (long)(part + 1) * PART); i++) {
            if (!(masses[i] > 0)) continue;
            last = i;
            if ((sum += masses[i]) > point) return i;
        }
    }
    return last;
}

// A token that is drawn; -1 where nothing can be. scaled, masses [n] are for its own use.
static long drawn(const float* logits, float* scaled, float* masses, long n, const Choice& choice) {
    // by way of double: -Ofast multiplies floats by an approximate inverse
    for (long i = 0; i < n; i++) scaled[i] = (double)logits[i] / (double)choice.temperature;
    const uint32_t highest = highest_key(scaled, n);
    if (!is_finite_key(highest)) return -1;
    exponentials(scaled, value_of(highest), masses, n);
    leave_out(scaled, value_of(highest), masses, n, choice);
    return at_number(masses, n, choice.uniform);
}

// out [rows, 2]: the token, -1 where none can be chosen, and the logarithm of the probability that the logits give it.
static void choose(const float* logits, const Choice* choices, float* out, long rows, long vocab) {
    #pragma omp parallel for schedule(dynamic) if (rows > 1)
    for (long r = 0; r < rows; r++) {
        static thread_local std::vector<float> room;
        room.resize(2 * vocab);
        const float* row = logits + r * vocab;
        const uint32_t highest = highest_key(row, vocab);
        out[2 * r] = -1;
        out[2 * r + 1] = 0;
        if (!is_finite_key(highest)) continue;
        const float top = value_of(highest);
        const double all = sum_over(row, vocab, [=](float x) { return vector_exp(x - top); });
        const long chosen = choices[r].uniform < 0
                                ? likeliest(row, highest, vocab)
                                : drawn(row, room.data(), room.data() + vocab, vocab, choices[r]);
        if (chosen < 0) continue;
        out[2 * r] = chosen;
        out[2 * r + 1] = row[chosen] - top - std::log((float)all);
    }
}
