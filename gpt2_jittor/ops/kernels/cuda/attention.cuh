// Causal attention, as ../attention.h has it.
#include "attention_forward.cuh"
#include "attention_gradient.cuh"
