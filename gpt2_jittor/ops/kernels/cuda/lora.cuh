// What LoRA adds to a projection: y += scaling dropout(x) . A^T . B^T with A [r, in] and B [out, r], and its gradients,
// as in ../lora.h. Sums are made by the products themselves, onto what is there.
#include "../shapes.h"
#include "dropout.cuh"
#include "projection.cuh"

// dropout(x) [rows, in], for as long as this lives; x itself where nothing is dropped.
struct LoraDropped {
    const Scratch scratch;
    const float* values;
    LoraDropped(const Lora& s, const float* x) : scratch(s.threshold ? s.rows * s.in : 1), values(x) {
        if (!s.threshold) return;
        dropout(x, scratch.values, s.rows * s.in, s.seed, s.threshold, s.keep_scale);
        values = scratch.values;
    }
};

// y = x . weight + bias + LoRA; low [rows, r] = scaling dropout(x) . A^T, which the gradient by B needs.
static void lora_forward(const Lora& s, const float* x, const float* weight, const float* bias, float* y, float* low) {
    const LoraDropped dropped(s, x);
    projection(x, weight, bias, y, s.rows, s.in, s.out);
    sgemm('N', 'T', s.rows, s.r, s.in, s.scaling, dropped.values, s.in, s.a, s.in, 0.0f, low, s.r);
    sgemm('N', 'T', s.rows, s.out, s.r, 1.0f, low, s.r, s.b, s.r, 1.0f, y, s.out);
}

// dlow [rows, r] = scaling dy . B; db [out, r] = dy^T . low; da [r, in] = dlow^T . dropout(x)
static void lora_backward(const Lora& s, const float* x, const float* dy, const float* low, float* dlow, float* da,
                          float* db) {
    const LoraDropped dropped(s, x);
    sgemm('N', 'N', s.rows, s.r, s.out, s.scaling, dy, s.out, s.b, s.r, 0.0f, dlow, s.r);
    sgemm('T', 'N', s.out, s.r, s.rows, 1.0f, dy, s.out, low, s.r, 0.0f, db, s.r);
    sgemm('T', 'N', s.r, s.in, s.rows, 1.0f, dlow, s.r, dropped.values, s.in, 0.0f, da, s.in);
}

// dx = dy . weight^T + dropout'(dlow . A)
static void lora_by_input(const Lora& s, const float* dy, const float* weight, const float* dlow, float* dx) {
    sgemm('N', 'N', s.rows, s.in, s.r, 1.0f, dlow, s.r, s.a, s.in, 0.0f, dx, s.in);
    if (s.threshold) dropout(dx, dx, s.rows * s.in, s.seed, s.threshold, s.keep_scale);
    projection_by_input(dy, weight, dx, s.rows, s.in, s.out, 1.0f);
}
