// One new token for each of a few rows, through the whole of GPT-2, as in ../decode_step.h: cuBLAS multiplies, and all
// that stands between two products is one kernel, so a layer takes four of each.
#include "cublas.cuh"
#include "decode_attention.cuh"
#include "gelu_new.cuh"

// A Conv1D weight, [inputs, outputs] by rows.
struct Plain {
    const float* values;
    long inputs, outputs;
};

static __global__ void embed_rows(Step s, const float* tokens, const float* positions, float* x) {
    const long row = blockIdx.x;
    const float *token = tokens + s.ids[row] * s.width, *position = positions + s.positions[row] * s.width;
    for (long c = threadIdx.x; c < s.width; c += blockDim.x) x[row * s.width + c] = token[c] + position[c];
}

// block_sum, in every thread
static __device__ inline float sum_for_all(float x) {
    __shared__ float sum;
    x = block_sum(x);
    if (threadIdx.x == 0) sum = x;
    __syncthreads();
    return sum;
}

// x += the bias that the product before it left out, if any; y = x normalised. A block for each row; a thread reads
// again what it wrote itself.
static __global__ void add_and_normalise_rows(float* x, const float* bias, Norm norm, float* y, long width, float eps) {
    x += blockIdx.x * width;
    y += blockIdx.x * width;
    float sum = 0, rest = 0, squares = 0;
    for (long c = threadIdx.x; c < width; c += blockDim.x) {
        if (bias) x[c] += bias[c];
        sum += x[c];
    }
    const float rough = sum_for_all(sum) / width;
    for (long c = threadIdx.x; c < width; c += blockDim.x) {
        rest += x[c] - rough;
        squares += (x[c] - rough) * (x[c] - rough);
    }
    const float correction = sum_for_all(rest) / width;  // what rounding took from a large mean
    const float mean = rough + correction;
    const float rstd = 1.0f / sqrtf(sum_for_all(squares) / width - correction * correction + eps);
    for (long c = threadIdx.x; c < width; c += blockDim.x)
        y[c] = (x[c] - mean) * rstd * norm.weight[c] + norm.bias[c];
}

static void add_and_normalise(const Step& s, float* x, const float* bias, const Norm& norm, float* y) {
    add_and_normalise_rows<<<s.rows, THREADS>>>(x, bias, norm, y, s.width, s.eps);
}

struct BiasGeluNew {
    const float* bias;
    long columns;
    __device__ float operator()(long i, float x) const { return GeluNew()(i, x + bias[i % columns]); }
};

// y = x w, or y += x w
static void multiply(const Plain& w, const float* x, float* y, long rows, bool onto = false) {
    sgemm('N', 'N', rows, w.outputs, w.inputs, 1.0f, x, w.inputs, w.values, w.outputs, onto, y, w.outputs);
}

// logits [rows, head.rows]; scales [layers] are on the device
static void decode_step(const Step& s, const Table<float>& tokens, const float* positions, const Block<Plain>* blocks,
                        const float* scales, long layers, const Norm& ln_f, const Table<float>& head, float* logits) {
    const Scratch scratch(s.rows * (6 * s.width + s.inner));
    float *x = scratch.values, *normal = x + s.rows * s.width, *qkv = normal + s.rows * s.width;
    float *mixed = qkv + s.rows * 3 * s.width, *hidden = mixed + s.rows * s.width;
    embed_rows<<<s.rows, THREADS>>>(s, tokens.values, positions, x);
    const float* left_out = nullptr;  // the bias of the product before
    for (long layer = 0; layer < layers; layer++) {
        const Block<Plain>& block = blocks[layer];
        add_and_normalise(s, x, left_out, block.ln_1, normal);
        multiply(block.c_attn.weight, normal, qkv, s.rows);
        attend(s, scales + layer, qkv, block.c_attn.bias, block.keys, block.values, mixed);
        multiply(block.c_proj.weight, mixed, x, s.rows, true);
        add_and_normalise(s, x, block.c_proj.bias, block.ln_2, normal);
        multiply(block.c_fc.weight, normal, hidden, s.rows);
        elementwise(BiasGeluNew{block.c_fc.bias, s.inner}, s.rows * s.inner, hidden, (const float*)hidden);
        multiply(block.mlp_proj.weight, hidden, x, s.rows, true);
        left_out = block.mlp_proj.bias;
    }
    add_and_normalise(s, x, left_out, ln_f, normal);
    sgemm('N', 'T', s.rows, head.rows, s.width, 1.0f, normal, s.width, head.values, s.width, 0.0f, logits, head.rows);
}
