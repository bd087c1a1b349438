// What the calls of some kernels hand over. A call is right for the CPU and for CUDA, and so is what stands here.
#include <cstdint>

struct AttentionShape {
    long batch, heads, queries, keys, dim, past;
    float scale;
    uint32_t seed, threshold;  // dropout: none where threshold is 0
    float keep_scale;
};

struct Lora {
    const float *a, *b;
    long rows, in, out, r;
    float scaling;
    uint32_t seed, threshold;  // dropout: none where threshold is 0
    float keep_scale;
};

struct Norm {
    const float *weight, *bias;
};

// What LoRA adds to a projection, to each row its own: rows spans[2 row] … spans[2 row + 1] of a [.., inputs] and of b
// [.., outputs], which holds the scaling too. a is nullptr where there is no LoRA.
struct RowLora {
    const float *a, *b;
    const int* spans;
};

template <class Weight>
struct Projection {
    Weight weight;
    const float* bias;
    RowLora lora;
};

template <class Weight>
struct Block {
    Norm ln_1, ln_2;
    Projection<Weight> c_attn, c_proj, c_fc, mlp_proj;
    float *keys, *values;  // [slots, capacity, width]
};

// w [rows, width] by rows, each to be multiplied by its scale, where there are scales.
template <class T>
struct Table {
    const T* values;
    const float* scales;
    long rows;
};

// Row b finds the keys and values of its token j in slot table[b, j] at offset + j; -1 is a pad. The last token is the
// new one, whose keys and values are written there.
struct Step {
    long rows, width, inner, heads;
    const int *ids, *positions, *table;
    long tokens, capacity, offset;
    float eps;
};
