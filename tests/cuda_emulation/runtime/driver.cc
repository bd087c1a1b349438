// The stand-in driver, libcuda.so.1: what programs ask it before they load the runtime.
#include "cuda.h"

#include "devices.h"

#define API extern "C" __attribute__((visibility("default")))

API CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
API CUresult cuDriverGetVersion(int* version) { return *version = CUDA_VERSION, CUDA_SUCCESS; }
API CUresult cuDeviceGetCount(int* count) { return *count = devices(), CUDA_SUCCESS; }
API CUresult cuDeviceGet(CUdevice* device, int number) { return *device = number, CUDA_SUCCESS; }
API CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 8; return CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; return CUDA_SUCCESS;
        default: return CUDA_ERROR_NOT_SUPPORTED;
    }
}
API CUresult cuDeviceGetName(char* name, int length, CUdevice) {
    const char text[] = "Emulated CUDA device";
    int i = 0;
    for (; text[i] && i < length - 1; i++) name[i] = text[i];
    name[i] = 0;
    return CUDA_SUCCESS;
}
API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice) { return *bytes = (size_t)16 << 30, CUDA_SUCCESS; }
