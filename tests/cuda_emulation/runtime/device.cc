// The devices, whose streams do at once what they are given, and whose events have always happened.
#include <cstring>
#include <ctime>

#include "devices.h"
#include "emulation.h"

namespace {

double now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec * 1e-6;
}

int chosen = 0;

cudaError_t synchronise() {
    emulationCount(emulation::SYNCHRONISATIONS, 1);
    return cudaSuccess;
}

}  // namespace

struct CUstream_st {};
struct CUevent_st {
    double milliseconds = 0;
};

EMULATION_API cudaError_t cudaGetDeviceCount(int* count) { return *count = devices(), cudaSuccess; }
EMULATION_API cudaError_t cudaGetDevice(int* device) { return *device = chosen, cudaSuccess; }
EMULATION_API cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= devices()) return emulationError(cudaErrorInvalidDevice);
    return chosen = device, cudaSuccess;
}
EMULATION_API cudaError_t cudaDeviceReset() { return cudaSuccess; }
EMULATION_API cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
EMULATION_API cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }

EMULATION_API cudaError_t cudaGetDeviceProperties_v2(cudaDeviceProp* properties, int device) {
    if (device < 0 || device >= devices()) return emulationError(cudaErrorInvalidDevice);
    cudaDeviceProp p;
    memset(&p, 0, sizeof p);
    strcpy(p.name, "Emulated CUDA device");
    p.major = 8, p.minor = 0;
    p.totalGlobalMem = (size_t)16 << 30;
    p.sharedMemPerBlock = 48 << 10, p.sharedMemPerBlockOptin = 163 << 10, p.sharedMemPerMultiprocessor = 164 << 10;
    p.totalConstMem = 64 << 10;
    p.regsPerBlock = p.regsPerMultiprocessor = 65536;
    p.warpSize = 32;
    p.maxThreadsPerBlock = 1024, p.maxThreadsPerMultiProcessor = 2048;
    p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024, p.maxThreadsDim[2] = 64;
    p.maxGridSize[0] = 2147483647, p.maxGridSize[1] = p.maxGridSize[2] = 65535;
    p.multiProcessorCount = 2;
    p.clockRate = 1000000, p.memoryClockRate = 1000000, p.memoryBusWidth = 64, p.l2CacheSize = 1 << 20;
    p.unifiedAddressing = p.managedMemory = p.canMapHostMemory = 1;
    *properties = p;
    return cudaSuccess;
}
EMULATION_API cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties_v2(&p, device)) return cudaErrorInvalidDevice;
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
        case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
        case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
        case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = p.sharedMemPerBlock; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = p.sharedMemPerBlockOptin; break;
        case cudaDevAttrWarpSize: *value = p.warpSize; break;
        case cudaDevAttrMaxGridDimX: *value = p.maxGridSize[0]; break;
        default: return emulationError(cudaErrorNotSupported);
    }
    return cudaSuccess;
}

EMULATION_API cudaError_t cudaDeviceSynchronize() { return synchronise(); }
EMULATION_API cudaError_t cudaStreamSynchronize(cudaStream_t) { return synchronise(); }
EMULATION_API cudaError_t cudaEventSynchronize(cudaEvent_t) { return synchronise(); }
EMULATION_API cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
EMULATION_API cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }

EMULATION_API cudaError_t cudaStreamCreate(cudaStream_t* stream) { return *stream = new CUstream_st, cudaSuccess; }
EMULATION_API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }
EMULATION_API cudaError_t cudaStreamDestroy(cudaStream_t stream) { return delete stream, cudaSuccess; }
EMULATION_API cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
EMULATION_API cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t call, void* data, unsigned) {
    call(stream, cudaSuccess, data);
    return cudaSuccess;
}
EMULATION_API cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t call, void* data) {
    call(data);
    return cudaSuccess;
}
EMULATION_API cudaError_t cudaEventCreate(cudaEvent_t* event) { return *event = new CUevent_st, cudaSuccess; }
EMULATION_API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
EMULATION_API cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
EMULATION_API cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    return event->milliseconds = now(), cudaSuccess;
}
EMULATION_API cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
    return *milliseconds = (float)(end->milliseconds - start->milliseconds), cudaSuccess;
}

EMULATION_API const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "cudaSuccess";
        case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
        case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
        case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
        case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
        case cudaErrorNotSupported: return "cudaErrorNotSupported";
        default: return "another cudaError";
    }
}
EMULATION_API const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
