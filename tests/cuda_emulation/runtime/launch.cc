// A launch: the blocks of a grid, one after another.
#include <xmmintrin.h>

#include <signal.h>

#include <algorithm>
#include <cstdlib>

#include "block.h"

namespace {

size_t most_shared = 48 << 10;  // more of it a kernel has to ask for
unsigned launched = 0;

bool possible(dim3 grid, dim3 block, size_t shared) {
    const size_t threads = (size_t)block.x * block.y * block.z;
    return threads && threads <= 1024 && block.z <= 64 && grid.x && grid.x <= 2147483647u && grid.y &&
           grid.y <= 65535 && grid.z && grid.z <= 65535 && shared <= most_shared;
}

// While one lives, a fault names the kernel that made it.
class Faults {
  public:
    explicit Faults(const char* kernel) {
        running = kernel;
        struct sigaction action = {};
        action.sa_sigaction = [](int, siginfo_t* info, void*) {
            emulationFail("kernel %s, block (%u, %u, %u), thread (%u, %u, %u): no memory of the device at %p", running,
                          emulationBlock.x, emulationBlock.y, emulationBlock.z, emulationThread.x, emulationThread.y,
                          emulationThread.z, info->si_addr);
        };
        action.sa_flags = SA_SIGINFO;
        sigaction(SIGSEGV, &action, &before);
    }
    ~Faults() { sigaction(SIGSEGV, &before, nullptr); }

  private:
    static const char* running;
    struct sigaction before;
};
const char* Faults::running = "";

}  // namespace

EMULATION_API void emulationLaunch(const char* name, dim3 grid, dim3 block, size_t shared, cudaStream_t,
                                   bool flushes_subnormals, void (*body)(void*), void* context) {
    emulationCountKernel(name);
    if (!possible(grid, block, shared)) {
        emulationError(cudaErrorInvalidConfiguration);
        return;
    }
    emulation::DeviceWorks works;
    const Faults faults(name);
    const unsigned mode = _mm_getcsr(), flush = 0x8040;  // flush to zero, denormals are zero
    _mm_setcsr(flushes_subnormals ? mode | flush : mode & ~flush);
    emulationBlockSize = block, emulationGridSize = grid;
    emulation::set_dynamic_shared(shared);
    const emulation::Kernel kernel{name, body, context};
    const unsigned threads = block.x * block.y * block.z;
    const size_t blocks = (size_t)grid.x * grid.y * grid.z;
    for (size_t turn = 0; turn < blocks; turn++) {
        emulationBlock = {(unsigned)(turn % grid.x), (unsigned)(turn / grid.x % grid.y),
                          (unsigned)(turn / grid.x / grid.y)};
        emulation::run_block(kernel, threads, launched + (unsigned)turn);
    }
    launched++;
    _mm_setcsr(mode);
}

EMULATION_API void emulationCheckPointer(const char* name, int number, const void* pointer) {
    if (pointer && !emulationOnDevice(pointer, 0))
        emulationFail("kernel %s: argument %d, %p, points to memory of the host", name, number, pointer);
}

EMULATION_API cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute attribute, int value) {
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value > (163 << 10)) return emulationError(cudaErrorInvalidValue);
        most_shared = std::max(most_shared, (size_t)value);
    }
    return cudaSuccess;
}
EMULATION_API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
    *attributes = cudaFuncAttributes{};
    attributes->maxThreadsPerBlock = 1024;
    return cudaSuccess;
}
EMULATION_API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int threads, size_t) {
    *blocks = threads > 0 ? std::min(32, 2048 / threads) : 0;
    return cudaSuccess;
}
