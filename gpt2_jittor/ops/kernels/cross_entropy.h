// -log softmax(logits)[target] of each row, and its gradient. A row's largest logit and the logarithm of its sum of
// exponentials are kept apart: added up, they would lose the digits of the smaller one.
#include <cmath>

static void cross_entropy_forward(const float* logits, const int* targets, float* loss, float* largest,
                                  float* log_sum, long rows, long width) {
    #pragma omp parallel for
    for (long r = 0; r < rows; r++) {
        const float* row = logits + r * width;
        float top = row[0], sum = 0;
        for (long c = 0; c < width; c++) top = row[c] > top ? row[c] : top;
        for (long c = 0; c < width; c++) sum += std::exp(row[c] - top);
        largest[r] = top;
        log_sum[r] = std::log(sum);
        loss[r] = log_sum[r] - (row[targets[r]] - top);
    }
}

static void cross_entropy_backward(const float* logits, const int* targets, const float* largest,
                                   const float* log_sum, const float* dloss, float* dlogits, long rows, long width) {
    #pragma omp parallel for
    for (long r = 0; r < rows; r++) {
        const float* row = logits + r * width;
        float* out = dlogits + r * width;
        const float g = dloss[r], top = largest[r], l = log_sum[r];
        for (long c = 0; c < width; c++) out[c] = g * std::exp((row[c] - top) - l);
        out[targets[r]] -= g;
    }
}
