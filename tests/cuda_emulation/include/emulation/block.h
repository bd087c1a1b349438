// What the threads of a block do together: barriers, shared memory, warp functions. runtime/block.cc schedules them.
#pragma once

#include <cstring>
#include <type_traits>

#include "builtin_types.h"

#define EMULATION_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

extern "C" {
enum EmulationVote { EMULATION_NONE, EMULATION_COUNT, EMULATION_AND, EMULATION_OR };
int emulationBarrier(EmulationVote vote, int predicate, const char* file, int line);
// Waits for the lanes of `mask`. Each gives `size` bytes, and gets those that lane `source` gave.
void emulationShuffle(unsigned mask, int source, const void* given, void* got, size_t size, const char* file, int line);
unsigned emulationBallot(unsigned mask, bool predicate, const char* file, int line);
unsigned emulationMatch(unsigned mask, const void* value, size_t size, const char* file, int line);
int emulationLane();
void* emulationDynamicShared(const char* file, int line);
// The first call in a block fills a static shared variable with 0xFF, which is NaN to floats: it starts undefined.
void emulationStaticShared(void* variable, size_t size, unsigned long* last_block);
}

// ---- blocks
inline void __syncthreads(EMULATION_PLACE) { emulationBarrier(EMULATION_NONE, 0, file, line); }
inline int __syncthreads_count(int p, EMULATION_PLACE) { return emulationBarrier(EMULATION_COUNT, p, file, line); }
inline int __syncthreads_and(int p, EMULATION_PLACE) { return emulationBarrier(EMULATION_AND, p, file, line); }
inline int __syncthreads_or(int p, EMULATION_PLACE) { return emulationBarrier(EMULATION_OR, p, file, line); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// ---- warps
namespace emulation {
template <class T>
inline T shuffled(unsigned mask, int source, T value, const char* file, int line) {
    static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 16, "a value of at most 16 bytes");
    T got;
    emulationShuffle(mask, source, &value, (void*)&got, sizeof(T), file, line);
    return got;
}
inline int segment(int width) { return emulationLane() & ~(width - 1); }
}  // namespace emulation

inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATION_PLACE) { emulationBallot(mask, false, file, line); }
template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, EMULATION_PLACE) {
    return emulation::shuffled(mask, emulation::segment(width) + (lane & (width - 1)), value, file, line);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATION_PLACE) {
    const int lane = emulationLane(), source = lane - (int)delta;
    return emulation::shuffled(mask, source < emulation::segment(width) ? lane : source, value, file, line);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATION_PLACE) {
    const int lane = emulationLane(), source = lane + (int)delta;
    return emulation::shuffled(mask, source >= emulation::segment(width) + width ? lane : source, value, file, line);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMULATION_PLACE) {
    const int lane = emulationLane(), source = lane ^ lanes;
    return emulation::shuffled(mask, source >= emulation::segment(width) + width ? lane : source, value, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATION_PLACE) {
    return emulationBallot(mask, predicate != 0, file, line);
}
inline int __any_sync(unsigned mask, int predicate, EMULATION_PLACE) {
    return emulationBallot(mask, predicate != 0, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMULATION_PLACE) {
    return emulationBallot(mask, predicate == 0, file, line) == 0;
}
template <class T>
inline unsigned __match_any_sync(unsigned mask, T value, EMULATION_PLACE) {
    return emulationMatch(mask, &value, sizeof(T), file, line);
}
// Any set of lanes that holds this one is a correct answer on a device whose threads go their own ways.
inline unsigned __activemask() { return 1u << emulationLane(); }

#define EMULATION_WARP_REDUCTION(name, T, combined)                                         \
    inline T name(unsigned mask, T value, EMULATION_PLACE) {                                \
        T total = value;                                                                    \
        bool first = true;                                                                  \
        for (int lane = 0; lane < 32; lane++) {                                             \
            if (!(mask >> lane & 1)) continue;                                              \
            const T other = emulation::shuffled(mask, lane, value, file, line);             \
            total = first ? other : combined;                                               \
            first = false;                                                                  \
        }                                                                                   \
        return total;                                                                       \
    }
EMULATION_WARP_REDUCTION(__reduce_add_sync, unsigned, total + other)
EMULATION_WARP_REDUCTION(__reduce_add_sync, int, total + other)
EMULATION_WARP_REDUCTION(__reduce_min_sync, unsigned, other < total ? other : total)
EMULATION_WARP_REDUCTION(__reduce_min_sync, int, other < total ? other : total)
EMULATION_WARP_REDUCTION(__reduce_max_sync, unsigned, other > total ? other : total)
EMULATION_WARP_REDUCTION(__reduce_max_sync, int, other > total ? other : total)
EMULATION_WARP_REDUCTION(__reduce_and_sync, unsigned, total & other)
EMULATION_WARP_REDUCTION(__reduce_or_sync, unsigned, total | other)
EMULATION_WARP_REDUCTION(__reduce_xor_sync, unsigned, total ^ other)
