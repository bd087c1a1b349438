// One block of threads, run to its end: what block.cc, warp.cc and launch.cc share.
#pragma once

#include <cstring>
#include <deque>
#include <vector>

#include "emulation.h"

// The place of the thread that runs, which kernels know as threadIdx, blockIdx, blockDim and gridDim.
extern "C" {
extern uint3 emulationThread, emulationBlock;
extern dim3 emulationBlockSize, emulationGridSize;
}

namespace emulation {

struct Fiber;

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

struct Place {  // in a kernel's source
    const char* file;
    int line;
    bool operator!=(const Place& other) const {
        return line != other.line || (file != other.file && strcmp(file, other.file));
    }
};

enum State { NOT_BEGUN, RUNS, AT_BARRIER, IN_WARP, ENDED };
enum Operation { SHUFFLE, BALLOT, MATCH };

struct Thread {
    State state;
    Fiber* fiber;   // of one that has begun
    Place place;    // where it waits
    int predicate;  // what it votes; then the result
    // what it brings to a meeting of its warp, and takes from it
    Operation operation;
    int source;
    size_t size;
    unsigned char given[16], got[16];
};

struct Meeting {  // of the lanes of `mask`
    unsigned mask, arrived;
};

struct Warp {
    unsigned ended;
    std::vector<Meeting> meetings;
};

struct Block {
    bool busy;             // a kernel runs
    unsigned long number;  // of all blocks of this process
    const Kernel* kernel;
    const Order* order;
    unsigned count, begun, ended, at_barrier;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    unsigned current;            // the thread that runs
    std::deque<unsigned> ready;  // those that waited and can go on
    Thread& self() { return threads[current]; }
};

extern Block block;

void run_block(const Kernel& kernel, unsigned threads, unsigned seed);

// Memory of the launch's blocks; `bytes` of it can be used, and end where nothing can.
void set_dynamic_shared(size_t bytes);

// Leaves this thread, whose state says why, until `make_ready` has been called for it.
void wait();
void make_ready(unsigned thread);

// Ends the meetings of a warp for which every lane is there that has not ended.
void check_meetings(unsigned warp);

[[noreturn]] void fail(const char* what);
// "what at FILE:LINE", and where there is `other`, "what at FILE:LINE and at FILE:LINE"
[[noreturn]] void fail_at(const char* what, const Place& place, const Place* other = nullptr);

}  // namespace emulation
