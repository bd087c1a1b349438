// out[i] = f(i, in[i], ...): each array is read or written once, four floats at a time where all of them begin at a
// multiple of four; the last few one by one.
#include "common.cuh"

template <int N, class F, class... Packs>
static __device__ inline Pack<N> of_packs(F f, long i, const Packs&... in) {
    Pack<N> out;
#pragma unroll
    for (int k = 0; k < N; k++) out.v[k] = f(i + k, in.v[k]...);
    return out;
}

template <int N, class F, class... In> static __global__ void elementwise_kernel(F f, long n, float* out, In... in) {
    const long thread = (long)blockIdx.x * blockDim.x + threadIdx.x, threads = (long)gridDim.x * blockDim.x;
    for (long i = thread * N; i + N <= n; i += threads * N) store<N>(out + i, of_packs<N>(f, i, load<N>(in + i)...));
    const long rest = n / N * N + thread;
    if (rest < n) out[rest] = f(rest, in[rest]...);
}

template <class F, class... In> static void elementwise(F f, long n, float* out, In... in) {
    const bool fours = in_fours({out, in...});
    const int blocks = (int)std::min(MOST_BLOCKS, divided_up(n, (fours ? 4 : 1) * THREADS));
    if (fours)
        elementwise_kernel<4><<<blocks, THREADS>>>(f, n, out, in...);
    else
        elementwise_kernel<1><<<blocks, THREADS>>>(f, n, out, in...);
}
