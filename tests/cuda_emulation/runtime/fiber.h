// Fibers: functions with a stack of their own that run until they hand over to another.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

#ifndef __x86_64__
#error "the switch between fibers is written for x86-64"
#endif

// Saves what the calling convention asks a function to keep, notes where, and goes on where `to` was saved.
extern "C" void emulationSwitch(void** from, void* to);
asm(R"(
    .text
    .type emulationSwitch, @function
emulationSwitch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulationSwitch, .-emulationSwitch
)");

namespace emulation {

struct Fiber {
    static constexpr size_t STACK = 256 << 10, GUARD = 4096;
    void* saved;

    // `entry` never returns; it begins at the first switch to `saved`.
    explicit Fiber(void (*entry)()) {
        char* stack = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        mprotect(stack, GUARD, PROT_NONE);
        void** top = (void**)(stack + STACK);
        *--top = nullptr;  // so that the stack is aligned as after a call
        *--top = (void*)entry;
        saved = top - 6;
    }
};

}  // namespace emulation
