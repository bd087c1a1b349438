// A kernel launch, as rewrite.py writes `kernel<<<grid, block, shared, stream>>>(arguments)`.
#pragma once

#include <cstddef>

#include "builtin_types.h"

extern "C" {
// Calls body(context) once for each thread of the grid. On an error of the kernel, the process ends with a message.
void emulationLaunch(const char* name, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                     bool flushes_subnormals, void (*body)(void*), void* context);
// Ends the process where a kernel's argument points to memory that the device cannot reach.
void emulationCheckPointer(const char* name, int number, const void* pointer);

// This thread's place. They are constant to a thread; the emulator changes them when it changes threads.
extern const uint3 threadIdx __asm__("emulationThread");
extern const uint3 blockIdx __asm__("emulationBlock");
extern const dim3 blockDim __asm__("emulationBlockSize");
extern const dim3 gridDim __asm__("emulationGridSize");
}
static const int warpSize = 32;

namespace emulation {

#ifdef __USE_FAST_MATH__
constexpr bool FLUSHES_SUBNORMALS = true;
#else
constexpr bool FLUSHES_SUBNORMALS = false;
#endif

template <class T>
inline void check_argument(const char* name, int number, T* pointer) {
    emulationCheckPointer(name, number, (const void*)pointer);
}
inline void check_argument(const char*, int, ...) {}

struct Launch {
    const char* name;
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;

    Launch(const char* name, dim3 grid, dim3 block, size_t shared = 0, cudaStream_t stream = nullptr)
        : name(name), grid(grid), block(block), shared(shared), stream(stream) {}

    // The arguments are evaluated once, by the host; each thread is given copies, converted to its parameters' types.
    template <class Call, class... Arguments>
    void operator()(Call call, Arguments... arguments) const {
        int number = 0;
        const int checked[] = {0, (check_argument(name, number++, arguments), 0)...};
        (void)checked, (void)number;
        auto thread = [&] { call(arguments...); };
        emulationLaunch(name, grid, block, shared, stream, FLUSHES_SUBNORMALS,
                        [](void* context) { (*(decltype(thread)*)context)(); }, &thread);
    }
};

}  // namespace emulation
