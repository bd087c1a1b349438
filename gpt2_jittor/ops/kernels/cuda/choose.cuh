// Each row's next token, from its logits: a block for each row. Every sum is made in the same order on every device and in
// every run: the same logits and the same number draw the same token.
// Bytes, of a row of V logits: 8 V greedy; else 12 V, and 4 V for each halving, which the cache holds.
#include "../bits.h"
#include "../choice.h"
#include "common.cuh"

static const int CHOOSERS = WARP * WARP;

// What all threads' x come to, in each of them. All come here.
template <class T, class Combine> static __device__ inline T of_all(T x, Combine combine) {
    __shared__ T parts[WARP];
    for (int other = WARP / 2; other; other /= 2) x = combine(x, __shfl_xor_sync(ALL_LANES, x, other));
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
    __syncthreads();
    x = parts[threadIdx.x % WARP];
    for (int other = WARP / 2; other; other /= 2) x = combine(x, __shfl_xor_sync(ALL_LANES, x, other));
    __syncthreads();  // the next call writes
    return x;
}

template <class T> static __device__ inline T most_of_all(T x) {
    return of_all(x, [](T a, T b) { return b > a ? b : a; });
}

// sums[t] = x of the threads 0 ... t together
template <class T> static __device__ inline void cumulate(T x, T* sums) {
    const int t = threadIdx.x;
    sums[t] = x;
    for (int step = 1; step < CHOOSERS; step *= 2) {
        __syncthreads();
        x = t >= step ? sums[t - step] + sums[t] : sums[t];
        __syncthreads();
        sums[t] = x;
    }
    __syncthreads();
}

// The sum of f(x) over a row; of floats in double precision where there are many.
template <class F> static __device__ inline double sum_over(const float* row, long vocab, F f) {
    decltype(f(0.0f)) own = 0;
    for (long i = threadIdx.x; i < vocab; i += CHOOSERS) own += f(row[i]);
    return of_all((double)own, [](double a, double b) { return a + b; });
}

// The first of the largest.
static __device__ inline long likeliest(const float* logits, long vocab) {
    unsigned long long largest = 0;
    for (long i = threadIdx.x; i < vocab; i += CHOOSERS) {
        const unsigned long long both = (unsigned long long)key_of(logits[i]) << 32 | (0xffffffffu - (uint32_t)i);
        largest = both > largest ? both : largest;
    }
    return 0xffffffffu - (uint32_t)most_of_all(largest);
}

// The id at `uniform`, of [0, 1), of the cumulated probabilities; -1 where nothing can be drawn. `best` is the likeliest,
// scaled [vocab] is for its own use.
static __device__ inline long drawn(const float* logits, float* scaled, long vocab, long best, const Choice& choice) {
    __shared__ double masses[CHOOSERS];
    __shared__ int equals[CHOOSERS], first_beyond;
    __shared__ long chosen;
    uint32_t least = 0xffffffffu, most = 0;
    for (long i = threadIdx.x; i < vocab; i += CHOOSERS) {
        scaled[i] = __fdiv_rn(logits[i], choice.temperature);
        const uint32_t key = key_of(scaled[i]);
        least = key > LOWEST_KEY && key < least ? key : least;
        most = key > most ? key : most;
    }
    least = ~most_of_all(~least);
    most = most_of_all(most);
    if (!is_finite_key(most)) return -1;
    const float top = value_of(most);
    const auto over_row = [=](auto f) { return sum_over(scaled, vocab, f); };
    const auto mass_of = [=](float x) { return expf(x - top); };
    const Border border = find_border(over_row, mass_of, 0.0, least, most, choice);

    // each thread has a piece of the vocabulary, so that masses are summed in the order of the ids
    const long piece = divided_up(vocab, CHOOSERS), begin = min(threadIdx.x * piece, vocab);
    const long end = min(begin + piece, vocab);
    int equal = 0;
    for (long i = begin; i < end; i++) equal += key_of(scaled[i]) == border.key;
    cumulate(equal, equals);
    const auto over_candidates = [&](auto f) {
        long number = equals[threadIdx.x] - equal;  // of those that equal the border
        for (long i = begin; i < end; i++) {
            const uint32_t key = key_of(scaled[i]);
            if (key < border.key || (key == border.key && number++ < border.left_out)) continue;
            const float mass = expf(scaled[i] - top);
            if (mass > 0 && mass >= choice.min_p) f(i, mass);
        }
    };
    double own = 0;
    over_candidates([&](long, float mass) { own += mass; });
    cumulate(own, masses);
    const double all = masses[CHOOSERS - 1], before = threadIdx.x ? masses[threadIdx.x - 1] : 0.0;
    const double point = min(choice.uniform * all, nextafter(all, 0.0));  // as float, 1 - 1e-9 is 1
    if (threadIdx.x == 0) {
        first_beyond = CHOOSERS - 1;
        chosen = best;  // should a piece without candidates seem to go beyond the point, by a rounding
    }
    __syncthreads();
    if (masses[threadIdx.x] > point) atomicMin(&first_beyond, (int)threadIdx.x);
    __syncthreads();
    if ((int)threadIdx.x == first_beyond) {
        bool found = false;
        double sum = 0;
        over_candidates([&](long i, float mass) {
            if (found) return;
            chosen = i;  // the last, should the sum round to less than the point
            sum += mass;
            found = before + sum > point;
        });
    }
    __syncthreads();
    return chosen;
}

static __global__ void __launch_bounds__(CHOOSERS)
    choose_rows(const float* logits, float* scaled, const Choice* choices, float* out, long vocab) {
    logits += blockIdx.x * vocab;
    const Choice choice = choices[blockIdx.x];
    const long best = likeliest(logits, vocab);
    const float top = logits[best];
    const double all = sum_over(logits, vocab, [=](float x) { return expf(x - top); });
    long chosen = is_finite_key(key_of(top)) ? best : -1;
    if (chosen >= 0 && choice.uniform >= 0) chosen = drawn(logits, scaled + blockIdx.x * vocab, vocab, best, choice);
    if (threadIdx.x == 0) {
        out[2 * blockIdx.x] = chosen;
        out[2 * blockIdx.x + 1] = chosen < 0 ? 0.0f : logits[chosen] - top - logf((float)all);
    }
}

// out [rows, 2]: the token, -1 where none can be chosen, and the logarithm of the probability that the logits give it.
static void choose(const float* logits, const Choice* choices, float* out, long rows, long vocab) {
    const Scratch scaled(rows * vocab);
    choose_rows<<<rows, CHOOSERS>>>(logits, scaled.values, choices, out, vocab);
}
