// One AdamW update of n numbers in one pass: see ops/adamw.py for the formula.
#include <cmath>

static void adamw(const float* parameter, const float* gradient, const float* first, const float* second,
                  const float* scale, float* new_parameter, float* new_first, float* new_second, long n,
                  float keep, float step_size, float correction, float beta1, float beta2, float eps) {
    const float factor = scale[0];
    #pragma omp parallel for simd
    for (long i = 0; i < n; i++) {
        const float g = gradient[i] * factor;
        const float m = beta1 * first[i] + (1 - beta1) * g;
        const float v = beta2 * second[i] + (1 - beta2) * g * g;
        new_first[i] = m;
        new_second[i] = v;
        new_parameter[i] = parameter[i] * keep - step_size * m / (std::sqrt(v) * correction + eps);
    }
}
