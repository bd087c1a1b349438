// Kernels that test the emulator: `kernels NAME in out` reads float32 from one file and writes them to another.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <vector>

enum Flaw { NONE, MISSING_BARRIER, OFF_BY_ONE };

template <int THREADS, Flaw FLAW>
__global__ void __launch_bounds__(THREADS) block_sum(const float* __restrict__ x, float* y, int n) {
    __shared__ float partial[THREADS];
    float sum = 0;
    const int end = FLAW == OFF_BY_ONE ? n - 1 : n;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < end; i += gridDim.x * blockDim.x) sum += x[i];
    partial[threadIdx.x] = sum;
    __syncthreads();
    for (int half = THREADS / 2; half; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        if (FLAW != MISSING_BARRIER) __syncthreads();
    }
    if (threadIdx.x == 0) y[blockIdx.x] = partial[0];
}

template <bool BARRIER>
__global__ void broadcast(const float* x, float* y) {  // what thread 0 writes, all read
    __shared__ float shared;
    if (threadIdx.x == 0) shared = x[blockIdx.x];
    if (BARRIER) __syncthreads();
    y[blockIdx.x * blockDim.x + threadIdx.x] = shared;
}

__global__ void row_softmax(const float* x, float* y, int width) {  // a warp a row
    const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    x += row * width, y += row * width;
    float top = -INFINITY, sum = 0;
    for (int i = lane; i < width; i += 32) top = fmaxf(top, x[i]);
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
    for (int i = lane; i < width; i += 32) sum += __expf(x[i] - top);
    for (int o = 16; o > 0; o /= 2) sum += __shfl_down_sync(0xffffffffu, sum, o);
    sum = __shfl_sync(0xffffffffu, sum, 0);
    for (int i = lane; i < width; i += 32) y[i] = __fdividef(__expf(x[i] - top), sum);
}

__global__ void scan(const float* x, float* y) {  // of the first 32
    float value = x[threadIdx.x];
    for (int o = 1; o < 32; o *= 2) {
        const float before = __shfl_up_sync(0xffffffffu, value, o);
        if (threadIdx.x >= o) value += before;
    }
    y[threadIdx.x] = value;
}

__global__ void votes(const float* x, float* y) {  // of 48 threads: a whole warp and half of one
    const bool positive = x[threadIdx.x] > 0;
    const unsigned mask = threadIdx.x < 32 ? 0xffffffffu : 0xffffu;
    y[threadIdx.x] = __popc(__ballot_sync(mask, positive));
    y[48 + threadIdx.x] = __syncthreads_count(positive);
    y[96 + threadIdx.x] = __popc(__match_any_sync(mask, (int)x[threadIdx.x]));
}

__global__ void reverse(const float* x, float* y, int n) {
    extern __shared__ __align__(16) float kept[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) kept[i] = x[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = kept[n - 1 - i];
}

__global__ void histogram(const float* x, float* y, int n) {
    __shared__ int counts[8], largest;
    if (threadIdx.x < 8) counts[threadIdx.x] = 0;
    if (threadIdx.x == 0) largest = -1;
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        atomicAdd(&counts[(int)x[i]], 1);
        atomicMax(&largest, (int)x[i]);
    }
    __syncthreads();
    if (threadIdx.x < 8) atomicAdd(y + threadIdx.x, counts[threadIdx.x]);
    if (threadIdx.x == 0) y[8] = largest;
}

__global__ void transpose(const float* x, float* y, int rows, int columns) {  // blocks of two dimensions
    __shared__ float tile[8][8 + 1];
    const int column = blockIdx.x * 8 + threadIdx.x, row = blockIdx.y * 8 + threadIdx.y;
    if (row < rows && column < columns) tile[threadIdx.y][threadIdx.x] = x[row * columns + column];
    __syncthreads();
    const int to_row = blockIdx.x * 8 + threadIdx.y, to_column = blockIdx.y * 8 + threadIdx.x;
    if (to_row < columns && to_column < rows) y[to_row * rows + to_column] = tile[threadIdx.x][threadIdx.y];
}

template <class T>
__global__ void twice(const T* x, T* y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] + x[i];
}
template <>
__global__ void twice(const float4* x, float4* y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float4 v = __ldg(x + i);
    y[i] = make_float4(v.x + v.x, v.y + v.y, v.z + v.z, v.w + v.w);
}

__global__ void halves(const float* x, float* y, int n) {
    const int i = threadIdx.x;
    const __half h = __float2half(x[i]);
    const __nv_bfloat16 b = __float2bfloat16(x[i]);
    y[i] = __half2float(h * h + h);
    y[n + i] = __bfloat162float(b * b);
    y[2 * n + i] = __half2float(hexp(h));
}

// ---- what a device does not forgive
__global__ void ends_before_the_barrier(const float* x, float* y, int n) {
    if (threadIdx.x >= n) return;
    __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
}
__global__ void different_barriers(float* y) {
    if (threadIdx.x % 2) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    y[threadIdx.x] = 0;
}
__global__ void lanes_that_never_come(float* y) {
    if (threadIdx.x < 16) {
        y[threadIdx.x] = __shfl_sync(0xffffffffu, 1.0f, 0);
    } else {
        __syncthreads();
    }
}
__global__ void outside_of_shared(float* y, int n) {
    __shared__ float kept[32];
    for (int i = threadIdx.x; i <= n; i += blockDim.x) kept[i] = i;
    y[threadIdx.x] = kept[threadIdx.x];
}
__global__ void writes_at(float* y, long at) { y[at] = 1; }

static void go(const std::string& name, const float* x, float* y, int n, std::vector<float>& host) {
    const float4* vectors = (const float4*)x;
    if (name == "block_sum") block_sum<256, NONE><<<3, 256>>>(x, y, n);
    if (name == "missing_barrier") block_sum<256, MISSING_BARRIER><<<3, 256>>>(x, y, n);
    if (name == "off_by_one") block_sum<256, OFF_BY_ONE><<<dim3(3), dim3(256), 0, nullptr>>>(x, y, n);
    if (name == "broadcast") broadcast<true><<<n, 64>>>(x, y);
    if (name == "broadcast_without_barrier") broadcast<false><<<n, 64>>>(x, y);
    if (name == "row_softmax") row_softmax<<<n / 70 / 2, 64>>>(x, y, 70);
    if (name == "scan") scan<<<1, 32>>>(x, y);
    if (name == "votes") votes<<<1, 48>>>(x, y);
    if (name == "reverse") reverse<<<1, 96, n * sizeof(float)>>>(x, y, n);
    if (name == "too_little_shared") reverse<<<1, 96, (n - 8) * sizeof(float)>>>(x, y, n);
    if (name == "histogram") histogram<<<1, 128>>>(x, y, n);
    if (name == "transpose") transpose<<<dim3(3, 2), dim3(8, 8)>>>(x, y, n / 19, 19);
    if (name == "twice") twice<<<(n - 1) / 128 + 1, 128>>>(x, y, n);
    if (name == "twice_float4") twice<float4><<<1, n / 4>>>(vectors, (float4*)y, n / 4);
    if (name == "misaligned") twice<<<1, 4>>>((const float4*)(x + 1), (float4*)y, 4);
    if (name == "halves") halves<<<1, n>>>(x, y, n);
    if (name == "ends_before_the_barrier") ends_before_the_barrier<<<1, 64>>>(x, y, 50);
    if (name == "different_barriers") different_barriers<<<1, 64>>>(y);
    if (name == "lanes_that_never_come") lanes_that_never_come<<<1, 32>>>(y);
    if (name == "outside_of_shared") outside_of_shared<<<1, 32>>>(y, 32);
    if (name == "beyond_an_allocation") writes_at<<<1, 1>>>(y, 1 << 22);
    if (name == "just_beyond_an_allocation") writes_at<<<1, 1>>>(y, 4099);
    if (name == "memory_of_the_host") twice<<<1, 1>>>((const float*)host.data(), y, 1);
    if (name == "read_by_the_host") host[0] = *x;
    if (name == "too_many_threads") twice<<<1, 1025>>>(x, y, n);
}

int main(int count, char** arguments) {
    std::vector<float> host(1 << 20), result(4099);
    FILE* file = fopen(arguments[2], "rb");
    const size_t n = fread(host.data(), 4, host.size(), file);
    fclose(file);
    float *x, *y;
    cudaMalloc(&x, n * 4);
    cudaMalloc(&y, result.size() * 4);
    cudaMemcpy(x, host.data(), n * 4, cudaMemcpyHostToDevice);
    cudaMemset(y, 0, result.size() * 4);
    go(arguments[1], x, y, (int)n, host);
    if (const cudaError_t error = cudaGetLastError()) printf("error: %s\n", cudaGetErrorName(error));
    cudaDeviceSynchronize();
    cudaMemcpy(result.data(), y, result.size() * 4, cudaMemcpyDeviceToHost);
    cudaFree(x), cudaFree(y);
    file = fopen(arguments[3], "wb");
    fwrite(result.data(), 4, result.size(), file);
    fclose(file);
    return 0;
}
