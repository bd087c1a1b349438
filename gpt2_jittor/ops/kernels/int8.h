// Products of many rows with int8 weights: a block of 64 outputs at a time is brought back to floats, which stay in the
// thread's cache, and oneDNN does the rest. After vectors.h, products.h and sgemm.h.
#include <vector>

// y [rows, w.outputs] = x [rows, w.inputs] w
static void int8_product(const Panels& w, const float* x, long rows, float* y) {
    #pragma omp parallel
    {
        std::vector<float> block(w.inputs * PANEL);
        #pragma omp for schedule(static)
        for (long c = 0; c < w.outputs; c += PANEL) {
            const long n = std::min(PANEL, w.outputs - c);
            const int8_t* panel = w.column(c);
            for (long k = 0; k < w.inputs; k++)
                for (long j = 0; j < n; j++) block[k * n + j] = panel[k * PANEL + j] * w.scales[c + j];
            dnnl_sgemm('N', 'N', rows, n, w.inputs, 1.0f, x, w.inputs, block.data(), n, 0.0f, y + c, w.outputs);
        }
    }
}

// y [rows, outputs] = x [rows, inputs] wT, with w [outputs, inputs] by rows
static void int8_transposed_product(const int8_t* w, const float* scales, const float* x, long rows, long inputs,
                                    long outputs, float* y) {
    #pragma omp parallel
    {
        std::vector<float> block(inputs * PANEL);
        #pragma omp for schedule(static)
        for (long first = 0; first < outputs; first += PANEL) {
            const long n = std::min(PANEL, outputs - first);
            for (long j = 0; j < n; j++)
                for (long k = 0; k < inputs; k++)
                    block[j * inputs + k] = w[(first + j) * inputs + k] * scales[first + j];
            dnnl_sgemm('N', 'T', rows, n, inputs, 1.0f, x, inputs, block.data(), inputs, 0.0f, y + first, outputs);
        }
    }
}
