// NVIDIA's header, and two members of cudaDeviceProp that CUDA 13 dropped: Jittor 1.3.11's helper_cuda.h reads them, in
// functions that nothing calls.
#include "nvidia_cuda_runtime.h"
#if !defined(clockRate)
#define clockRate multiProcessorCount
#define computeMode integrated
#endif
