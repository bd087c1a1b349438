// Threads of a block as fibers: each runs until it ends or has to wait for others, in an order that hides few races.
//
// A thread that never waits costs one call: a fiber runs threads one after another, and only when one waits does the
// next get a fiber of its own.
#include "block.h"

#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "fiber.h"

uint3 emulationThread, emulationBlock;
dim3 emulationBlockSize, emulationGridSize;

namespace emulation {

Block block;

namespace {

Fiber* running;
std::vector<Fiber*> idle;
void* scheduler;
char* dynamic_shared;
size_t dynamic_bytes;

void become(unsigned thread) {
    block.current = thread;
    const dim3& size = emulationBlockSize;
    emulationThread = {thread % size.x, thread / size.x % size.y, thread / size.x / size.y};
}

// Where every thread has ended or waits at a barrier, they must all wait, and at the same.
void check_barrier() {
    if (!block.at_barrier || block.at_barrier + block.ended < block.count) return;
    const Thread* first = nullptr;
    for (const Thread& thread : block.threads) {
        if (thread.state != AT_BARRIER) continue;
        if (!first) first = &thread;
        if (first->place != thread.place) fail_at("threads wait", first->place, &thread.place);
    }
    if (!block.ended) return;
    char text[100];
    snprintf(text, sizeof text, "%u of %u threads have ended, while the others wait", block.ended, block.count);
    fail_at(text, first->place);
}

void open_barrier() {
    int votes = 0;
    for (const Thread& thread : block.threads) votes += thread.predicate != 0;
    block.at_barrier = 0;
    for (unsigned turn = 0; turn < block.count; turn++) {
        block.threads[block.order->at(turn)].predicate = votes;
        make_ready(block.order->at(turn));
    }
}

void end_thread() {
    block.self().state = ENDED;
    block.ended++;
    block.warps[block.current / 32].ended |= 1u << (block.current & 31);
    check_meetings(block.current / 32);
    check_barrier();
}

void run_threads() {
    for (;;) {
        while (block.begun < block.count) {
            become(block.order->at(block.begun++));
            block.self().state = RUNS;
            block.kernel->body(block.kernel->context);
            end_thread();
        }
        idle.push_back(running);
        emulationSwitch(&running->saved, scheduler);
    }
}

void switch_to(Fiber* fiber) {
    running = fiber;
    emulationSwitch(&scheduler, fiber->saved);
}

void run_next() {
    if (!block.ready.empty()) {
        become(block.ready.front());
        block.ready.pop_front();
        switch_to(block.self().fiber);
    } else if (block.begun < block.count) {
        if (idle.empty()) idle.push_back(new Fiber(run_threads));
        Fiber* fiber = idle.back();
        idle.pop_back();
        switch_to(fiber);
    } else {
        for (const Thread& thread : block.threads)
            if (thread.state == IN_WARP) fail_at("lanes wait for others that never come", thread.place);
        fail("its threads wait for each other");
    }
}

}  // namespace

Order::Order(unsigned count, unsigned seed) : first(0), step(1), count(count) {
    static const char* const kind = getenv("CUDA_EMULATION_ORDER") ? getenv("CUDA_EMULATION_ORDER") : "scattered";
    if (!strcmp(kind, "backwards")) {
        first = count - 1, step = count - 1;
    } else if (!strcmp(kind, "scattered")) {
        const unsigned hash = (seed + 1) * 0x9E3779B1u ^ (seed >> 7);
        first = hash % count;
        step = (hash >> 8) % count;
        while (std::gcd(step, count) != 1) step++;
    } else if (strcmp(kind, "forwards")) {
        emulationFail("CUDA_EMULATION_ORDER is forwards, backwards or scattered, not %s", kind);
    }
}

void run_block(const Kernel& kernel, unsigned threads, unsigned seed) {
    const Order order(threads, seed);
    block.kernel = &kernel, block.order = &order;
    block.number++;
    block.count = threads;
    block.begun = block.ended = block.at_barrier = 0;
    block.threads.resize(threads);
    for (Thread& thread : block.threads) thread.state = NOT_BEGUN;
    block.warps.resize((threads + 31) / 32);
    for (Warp& warp : block.warps) warp.ended = 0, warp.meetings.clear();
    if (threads % 32) block.warps.back().ended = ~0u << threads % 32;
    memset(dynamic_shared, 0xff, dynamic_bytes);
    block.busy = true;
    while (block.ended < threads) run_next();
    block.busy = false;
}

void set_dynamic_shared(size_t bytes) {
    static constexpr size_t MOST = 256 << 10;
    static char* end = nullptr;
    if (!end) {
        char* memory = (char*)mmap(nullptr, MOST + 4096, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        end = memory + MOST;
        mprotect(end, 4096, PROT_NONE);
    }
    dynamic_bytes = (bytes + 15) / 16 * 16;
    dynamic_shared = end - dynamic_bytes;
}

void wait() {
    block.self().fiber = running;
    emulationSwitch(&running->saved, scheduler);
}

void make_ready(unsigned thread) {
    block.threads[thread].state = RUNS;
    block.ready.push_back(thread);
}

void fail(const char* what) {
    const auto& at = emulationBlock;
    emulationFail("kernel %s, block (%u, %u, %u): %s", block.kernel->name, at.x, at.y, at.z, what);
}

void fail_at(const char* what, const Place& place, const Place* other) {
    char text[1000];
    int length = snprintf(text, sizeof text, "%s at %s:%d", what, place.file, place.line);
    if (other) snprintf(text + length, sizeof text - length, " and at %s:%d", other->file, other->line);
    fail(text);
}

}  // namespace emulation

using namespace emulation;

EMULATION_API int emulationBarrier(int vote, int predicate, const char* file, int line) {
    enum { NONE, COUNT, AND, OR };  // EmulationVote
    if (!block.busy) emulationFail("%s:%d: a barrier was reached by the host", file, line);
    Thread& thread = block.self();
    thread.predicate = predicate, thread.state = AT_BARRIER, thread.place = {file, line};
    block.at_barrier++;
    check_barrier();
    if (block.at_barrier == block.count) open_barrier();
    wait();
    const int votes = thread.predicate;
    return vote == COUNT ? votes : vote == AND ? votes == (int)block.count : vote == OR ? votes != 0 : 0;
}

EMULATION_API void* emulationDynamicShared(const char* file, int line) {
    if (!block.busy) emulationFail("%s:%d: `extern __shared__` belongs into a kernel", file, line);
    return dynamic_shared;
}

EMULATION_API void emulationStaticShared(void* variable, size_t size, unsigned long* last_block) {
    if (*last_block == block.number) return;
    *last_block = block.number;
    memset(variable, 0xff, size);
}
