// Layer normalisation over the last axis, rows of `width` floats. Passes over a row that stays in cache:
// E[x^2] - E[x]^2 would lose every digit where the mean is large.
#include <algorithm>
#include <cmath>

static inline void layer_norm_row(const float* x, const float* weight, const float* bias, float* y, float* mean,
                                  float* rstd, long width, float eps) {
    float sum = 0, rest = 0, squares = 0;
    for (long c = 0; c < width; c++) sum += x[c];
    const float rough = sum / width;
    for (long c = 0; c < width; c++) rest += x[c] - rough;
    const float m = rough + rest / width;  // what rounding took from a large mean
    for (long c = 0; c < width; c++) squares += (x[c] - m) * (x[c] - m);
    const float s = 1.0f / std::sqrt(squares / width + eps);
    for (long c = 0; c < width; c++) y[c] = (x[c] - m) * s * weight[c] + bias[c];
    *mean = m;
    *rstd = s;
}

static void layer_norm_forward(const float* x, const float* weight, const float* bias, float* y, float* mean,
                               float* rstd, long rows, long width, float eps) {
    #pragma omp parallel for
    for (long r = 0; r < rows; r++)
        layer_norm_row(x + r * width, weight, bias, y + r * width, mean + r, rstd + r, width, eps);
}

// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) with g = dy * weight
static void layer_norm_backward(const float* dy, const float* x, const float* weight, const float* mean,
                                const float* rstd, float* dx, long rows, long width) {
    #pragma omp parallel for
    for (long r = 0; r < rows; r++) {
        const float *dyr = dy + r * width, *xr = x + r * width;
        float* dxr = dx + r * width;
        const float m = mean[r], s = rstd[r];
        float sum_g = 0, sum_gx = 0;
        for (long c = 0; c < width; c++) {
            const float g = dyr[c] * weight[c];
            sum_g += g;
            sum_gx += g * (xr[c] - m) * s;
        }
        sum_g /= width;
        sum_gx /= width;
        for (long c = 0; c < width; c++)
            dxr[c] = s * (dyr[c] * weight[c] - sum_g - (xr[c] - m) * s * sum_gx);
    }
}

// Sums over rows, in column strips so that threads never share an accumulator.
static void layer_norm_backward_affine(const float* dy, const float* x, const float* mean, const float* rstd,
                                       float* dweight, float* dbias, long rows, long width) {
    const long strip = 64;
    #pragma omp parallel for
    for (long start = 0; start < width; start += strip) {
        const long n = std::min(strip, width - start);
        float dw[64] = {0}, db[64] = {0};
        for (long r = 0; r < rows; r++) {
            const float *dyr = dy + r * width + start, *xr = x + r * width + start;
            for (long c = 0; c < n; c++) {
                dw[c] += dyr[c] * (xr[c] - mean[r]) * rstd[r];
                db[c] += dyr[c];
            }
        }
        for (long c = 0; c < n; c++) dweight[start + c] = dw[c], dbias[start + c] = db[c];
    }
}
