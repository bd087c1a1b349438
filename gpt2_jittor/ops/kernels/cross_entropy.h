// -log softmax(logits)[target] of each row, and its gradient. A row's largest logit and its sum of exponentials are
// kept apart: in one log-sum-exp the larger would take the digits of the smaller. -Ofast may reorder sums, so the
// one difference that must be taken first goes through a volatile. Needs exp.h.
#include <cmath>

static void cross_entropy_forward(const float* logits, const int* targets, float* loss, float* largest,
                                  float* sums, long rows, long width) {
    #pragma omp parallel for
    for (long r = 0; r < rows; r++) {
        const float* row = logits + r * width;
        float top = row[0], sum = 0;
        for (long c = 0; c < width; c++) top = row[c] > top ? row[c] : top;
        for (long c = 0; c < width; c++) sum += vector_exp(row[c] - top);
        largest[r] = top;
        sums[r] = sum;
        const volatile float below_top = row[targets[r]] - top;
        loss[r] = std::log(sum) - below_top;
    }
}

static void cross_entropy_backward(const float* logits, const int* targets, const float* largest,
                                   const float* sums, const float* dloss, float* dlogits, long rows, long width) {
    #pragma omp parallel for
    for (long r = 0; r < rows; r++) {
        const float* row = logits + r * width;
        float* out = dlogits + r * width;
        const float top = largest[r], scale = dloss[r] / sums[r];
        for (long c = 0; c < width; c++) out[c] = scale * vector_exp(row[c] - top);
        out[targets[r]] -= dloss[r];
    }
}
