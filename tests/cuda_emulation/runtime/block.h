// One block of threads, run to its end.
#pragma once

#include "emulation.h"

// The place of the thread that runs, which kernels know as threadIdx, blockIdx, blockDim and gridDim.
extern "C" {
extern uint3 emulationThread, emulationBlock;
extern dim3 emulationBlockSize, emulationGridSize;
}

namespace emulation {

struct Kernel {
    const char* name;
    void (*body)(void*);  // a thread
    void* context;
};

// Which of `count` comes at which turn: forwards, backwards, or `scattered`, differently for every `seed`.
struct Order {
    unsigned first, step, count;
    Order(unsigned count, unsigned seed);
    unsigned at(unsigned turn) const { return (first + (unsigned long)turn * step) % count; }
};

void run_block(const Kernel& kernel, unsigned threads, unsigned seed);

// Memory of the launch's blocks; `bytes` of it can be used, and end where nothing can.
void set_dynamic_shared(size_t bytes);

}  // namespace emulation
