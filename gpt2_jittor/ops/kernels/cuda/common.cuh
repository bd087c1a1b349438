// What the CUDA kernels share: four floats at a time, sums within a warp and a block, memory for a moment.
#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "executor.h"

static const int WARP = 32, THREADS = 256;
static const unsigned ALL_LANES = 0xffffffffu;
static const long MOST_BLOCKS = 4096;  // of a loop over an array: a few for each processor of the largest device
static const size_t SHARED_MEMORY = 48 * 1024;  // what every device since sm_70 gives a block without being asked

template <int N> struct alignas(4 * N) Pack {
    float v[N];
};

template <int N> static __device__ inline Pack<N> load(const float* p) { return *(const Pack<N>*)p; }

template <int N> static __device__ inline void store(float* p, const Pack<N>& x) { *(Pack<N>*)p = x; }

static __host__ __device__ inline bool in_fours(const void* p) { return (uintptr_t)p % sizeof(Pack<4>) == 0; }

static inline bool in_fours(std::initializer_list<const void*> arrays) {
    for (const void* p : arrays)
        if (!in_fours(p)) return false;
    return true;
}

static __host__ __device__ inline long divided_up(long n, long by) { return (n + by - 1) / by; }

static __device__ inline float warp_sum(float x) {
    for (int other = WARP / 2; other; other /= 2) x += __shfl_xor_sync(ALL_LANES, x, other);
    return x;
}

// The sum over a block of whole warps, in its first warp. All threads come here; a second call needs a barrier between.
static __device__ inline float block_sum(float x) {
    __shared__ float sums[WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = warp_sum(x);
    if (lane == 0) sums[warp] = x;
    __syncthreads();
    if (warp == 0) x = warp_sum(lane < blockDim.x / WARP ? sums[lane] : 0.0f);
    return x;
}

// Device memory between two kernels: Jittor's stream runs them in order, so it may be handed back at once.
struct Scratch {
    float* values;
    size_t bytes, allocation;
    explicit Scratch(long n) : bytes(n * sizeof(float)) {
        values = (float*)jittor::exe.temp_allocator->alloc(bytes, allocation);
    }
    Scratch(const Scratch&) = delete;
    ~Scratch() { jittor::exe.temp_allocator->free(values, bytes, allocation); }
};
