// -log softmax(logits)[target] of each row, and its gradient. Rows are long (the vocabulary), few passes pay.
#include <cmath>

static void cross_entropy_forward(const float* logits, const int* targets, float* loss, float* lse, long rows,
                                  long width) {
    #pragma omp parallel for
    for (long r = 0; r < rows; r++) {
        const float* row = logits + r * width;
        float top = row[0], sum = 0;
        for (long c = 0; c < width; c++) top = row[c] > top ? row[c] : top;
        for (long c = 0; c < width; c++) sum += std::exp(row[c] - top);
        lse[r] = top + std::log(sum);
        loss[r] = lse[r] - row[targets[r]];
    }
}

static void cross_entropy_backward(const float* logits, const int* targets, const float* lse, const float* dloss,
                                   float* dlogits, long rows, long width) {
    #pragma omp parallel for
    for (long r = 0; r < rows; r++) {
        const float* row = logits + r * width;
        float* out = dlogits + r * width;
        const float g = dloss[r], l = lse[r];
        for (long c = 0; c < width; c++) out[c] = g * std::exp(row[c] - l);
        out[targets[r]] -= g;
    }
}
