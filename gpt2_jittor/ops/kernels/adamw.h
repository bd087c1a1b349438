// One AdamW update of many tensors, and the sum of squares of many: see ops/adamw.py for the formulas.
#include <algorithm>
#include <cmath>
#include <vector>

struct Tensor {
    const float *parameter, *gradient, *first, *second;
    float *new_parameter, *new_first, *new_second;
    long n;
    float keep;  // what weight decay leaves of the parameter
};

struct Piece {
    long tensor, begin, end;
};

// All tensors cut into pieces of at most 32,768 numbers: work for any number of threads, whatever the sizes.
template <class Sizes> static std::vector<Piece> pieces(const Sizes& tensors) {
    std::vector<Piece> all;
    for (size_t t = 0; t < tensors.size(); t++)
        for (long begin = 0; begin < tensors[t].n; begin += 32768)
            all.push_back({(long)t, begin, std::min(begin + 32768, tensors[t].n)});
    return all;
}

static void adamw(const std::vector<Tensor>& tensors, const float* scale, float step_size, float correction,
                  float beta1, float beta2, float eps) {
    const std::vector<Piece> all = pieces(tensors);
    const float factor = scale[0];
    #pragma omp parallel for
    for (size_t k = 0; k < all.size(); k++) {
        const Tensor t = tensors[all[k].tensor];
        #pragma omp simd
        for (long i = all[k].begin; i < all[k].end; i++) {
            const float g = t.gradient[i] * factor;
            const float m = beta1 * t.first[i] + (1 - beta1) * g;
            const float v = beta2 * t.second[i] + (1 - beta2) * g * g;
            t.new_first[i] = m;
            t.new_second[i] = v;
            t.new_parameter[i] = t.parameter[i] * t.keep - step_size * m / (std::sqrt(v) * correction + eps);
        }
    }
}

struct Array {
    const float* values;
    long n;
};

// Each piece's sum is one thread's, and they are added in order: the same bits for any number of threads.
static void sum_of_squares(const std::vector<Array>& arrays, float* out) {
    const std::vector<Piece> all = pieces(arrays);
    std::vector<double> sums(all.size());
    #pragma omp parallel for
    for (size_t k = 0; k < all.size(); k++) {
        const float* values = arrays[all[k].tensor].values;
        double sum = 0;
        for (long i = all[k].begin; i < all[k].end; i++) sum += (double)values[i] * values[i];
        sums[k] = sum;
    }
    double total = 0;
    for (double sum : sums) total += sum;
    out[0] = (float)total;
}
