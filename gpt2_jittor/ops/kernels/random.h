// The counter-based generator behind dropout: MurmurHash3's 32-bit finaliser over (seed, index).
// Any thread can draw any element, and the backward pass draws the same again: no mask is stored.
// The CPU and CUDA draw from these very lines, and get the same masks.
#include <cstdint>

#ifndef __device__  // not nvcc
#define __device__
#endif

static __device__ inline uint32_t hash_index(uint32_t seed, uint32_t index) {
    uint32_t h = seed ^ (index * 0x9E3779B1u);
    h ^= h >> 16;
    h *= 0x85EBCA6Bu;
    h ^= h >> 13;
    h *= 0xC2B2AE35u;
    return h ^ (h >> 16);
}

// 1 / (1 - p) with probability 1 - p, else 0. `threshold` is p * 2^32.
static __device__ inline float dropout_factor(uint32_t seed, uint32_t index, uint32_t threshold, float scale) {
    return hash_index(seed, index) >= threshold ? scale : 0.0f;
}
