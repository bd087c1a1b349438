// Products of many rows with narrow weights: a block of 64 outputs at a time is brought back to floats, which stay in
// the thread's cache, and oneDNN does the rest. After shapes.h, vectors.h, products.h and sgemm.h.
#include <vector>

// y [rows, w.outputs] = x [rows, w.inputs] w
static void narrow_product(const Panels& w, const float* x, long rows, float* y) {
    #pragma omp parallel
    {
        std::vector<float> block(w.inputs * PANEL);
        #pragma omp for schedule(static)
        for (long c = 0; c < w.outputs; c += PANEL) {
            const long n = std::min(PANEL, w.outputs - c);
            const Bf16* panel = w.column(c);
            for (long k = 0; k < w.inputs; k++)
                for (long j = 0; j < n; j++) block[k * n + j] = panel[k * PANEL + j];
            dnnl_sgemm('N', 'N', rows, n, w.inputs, 1.0f, x, w.inputs, block.data(), n, 0.0f, y + c, w.outputs);
        }
    }
}

// y [rows, w.rows] = x [rows, inputs] wT
template <class T>
static void narrow_transposed_product(const Table<T>& w, const float* x, long rows, long inputs, float* y) {
    #pragma omp parallel
    {
        std::vector<float> block(inputs * PANEL);
        #pragma omp for schedule(static)
        for (long first = 0; first < w.rows; first += PANEL) {
            const long n = std::min(PANEL, w.rows - first);
            for (long j = 0; j < n; j++) {
                const float scale = w.scales ? w.scales[first + j] : 1.0f;
                for (long k = 0; k < inputs; k++)
                    block[j * inputs + k] = (float)w.values[(first + j) * inputs + k] * scale;
            }
            dnnl_sgemm('N', 'T', rows, n, inputs, 1.0f, x, inputs, block.data(), inputs, 0.0f, y + first, w.rows);
        }
    }
}
