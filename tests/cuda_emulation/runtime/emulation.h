// What the parts of the stand-in libraries share.
#pragma once

#include <cstddef>
#include <mutex>

#include "cuda_runtime_api.h"

#define EMULATION_API extern "C" __attribute__((visibility("default")))

namespace emulation {

enum Count {
    LAUNCHES,
    PRODUCTS,          // calls of cuBLAS
    RANDOM,            // calls of cuRAND
    COPIES_TO_DEVICE,
    BYTES_TO_DEVICE,
    COPIES_TO_HOST,
    BYTES_TO_HOST,
    COPIES_ON_DEVICE,
    FILLS,             // cudaMemset
    SYNCHRONISATIONS,  // the host waited for the device, a copy to the host included
    COUNTS
};

}  // namespace emulation

// ---- counts.cc
EMULATION_API void emulationCount(emulation::Count what, long long more);
EMULATION_API void emulationCountKernel(const char* name);
EMULATION_API void emulationTrace(const char* what, size_t bytes);  // on stderr, where that is wanted
// One line on stderr; ends the process, as an error of a kernel ends the use of a real device.
EMULATION_API void emulationFail(const char* format, ...) __attribute__((format(printf, 1, 2), noreturn));
// The last error, which cudaGetLastError tells; returns it.
EMULATION_API cudaError_t emulationError(cudaError_t error);

// ---- memory.cc
// Whether the device may access all of these bytes.
EMULATION_API bool emulationOnDevice(const void* pointer, size_t bytes);
EMULATION_API void emulationOpenMemory();
EMULATION_API void emulationCloseMemory();

namespace emulation {

// While one lives, the device works: its memory can be touched. Without one, touching it is a fault.
struct DeviceWorks {
    DeviceWorks() { emulationOpenMemory(); }
    ~DeviceWorks() { emulationCloseMemory(); }
};

}  // namespace emulation
