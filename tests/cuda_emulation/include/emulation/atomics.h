// Atomic functions. One thread runs at a time and is changed only at barriers, so that plain ones are atomic.
#pragma once

#define EMULATION_ATOMIC(name, T, result)            \
    inline T name(T* address, T value) {             \
        const T old = *address;                      \
        *address = result;                           \
        return old;                                  \
    }                                                \
    inline T name##_block(T* address, T value) { return name(address, value); }  \
    inline T name##_system(T* address, T value) { return name(address, value); }
#define EMULATION_ATOMIC_INTEGERS(name, result)   \
    EMULATION_ATOMIC(name, int, result)           \
    EMULATION_ATOMIC(name, unsigned, result)      \
    EMULATION_ATOMIC(name, unsigned long long, result)

EMULATION_ATOMIC_INTEGERS(atomicAdd, old + value)
EMULATION_ATOMIC(atomicAdd, float, old + value)
EMULATION_ATOMIC(atomicAdd, double, old + value)
EMULATION_ATOMIC(atomicSub, int, old - value)
EMULATION_ATOMIC(atomicSub, unsigned, old - value)
EMULATION_ATOMIC_INTEGERS(atomicExch, value)
EMULATION_ATOMIC(atomicExch, float, value)
EMULATION_ATOMIC_INTEGERS(atomicMin, value < old ? value : old)
EMULATION_ATOMIC(atomicMin, long long, value < old ? value : old)
EMULATION_ATOMIC_INTEGERS(atomicMax, value > old ? value : old)
EMULATION_ATOMIC(atomicMax, long long, value > old ? value : old)
EMULATION_ATOMIC_INTEGERS(atomicAnd, old & value)
EMULATION_ATOMIC_INTEGERS(atomicOr, old | value)
EMULATION_ATOMIC_INTEGERS(atomicXor, old ^ value)
EMULATION_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
EMULATION_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)

#define EMULATION_ATOMIC_CAS(T)                                   \
    inline T atomicCAS(T* address, T expected, T value) {         \
        const T old = *address;                                   \
        if (old == expected) *address = value;                    \
        return old;                                               \
    }
EMULATION_ATOMIC_CAS(int)
EMULATION_ATOMIC_CAS(unsigned)
EMULATION_ATOMIC_CAS(unsigned long long)
EMULATION_ATOMIC_CAS(unsigned short)
