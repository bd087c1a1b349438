// Threads of a block as fibers: each runs until it ends or has to wait for others, in an order that hides no race.
//
// A thread that never waits costs one call: a fiber runs threads one after another, and only when one waits does the
// next get a fiber of its own.
#include "block.h"

#include <cstdlib>
#include <cstring>
#include <cstdio>
#include <deque>
#include <numeric>
#include <vector>

#include "fiber.h"

uint3 emulationThread, emulationBlock;
dim3 emulationBlockSize, emulationGridSize;

namespace {

using emulation::Fiber;

enum State { NOT_BEGUN, RUNS, AT_BARRIER, IN_WARP, ENDED };
enum Operation { SHUFFLE, BALLOT, MATCH };

struct Place {
    const char* file;
    int line;
    bool operator!=(const Place& other) const { return line != other.line || (file != other.file && strcmp(file, other.file)); }
};

struct Thread {
    State state;
    Fiber* fiber;
    Place place;     // where it waits
    int predicate;   // what it votes; then the result
    Operation operation;
    unsigned mask;
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
    const emulation::Kernel* kernel;
    unsigned count = 0, begun, ended, at_barrier;
    unsigned long number = 0;  // of all blocks of this process
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::deque<unsigned> ready;
    std::vector<Fiber*> idle;
    Fiber* running;
    unsigned current;
    void* scheduler;
    emulation::Order* order;
} block;
bool busy = false;

[[noreturn]] void fail(const char* what) {
    const auto& at = emulationBlock;
    emulationFail("kernel %s, block (%u, %u, %u): %s", block.kernel->name, at.x, at.y, at.z, what);
}

[[noreturn]] void fail_at(const char* what, const Place& place, const char* rest = "", const Place& other = {"", 0}) {
    char text[600];
    const int length = snprintf(text, sizeof text, "%s at %s:%d%s", what, place.file, place.line, rest);
    if (other.line) snprintf(text + length, sizeof text - length, " at %s:%d", other.file, other.line);
    fail(text);
}

void become(unsigned thread) {
    block.current = thread;
    const dim3& size = emulationBlockSize;
    emulationThread = {thread % size.x, thread / size.x % size.y, thread / size.x / size.y};
}

void make_ready(unsigned thread) {
    block.threads[thread].state = RUNS;
    block.ready.push_back(thread);
}

// Leaves this thread until another has made it ready.
void wait(State state, const Place& place) {
    Thread& thread = block.threads[block.current];
    thread.state = state, thread.place = place, thread.fiber = block.running;
    emulationSwitch(&block.running->saved, block.scheduler);
}

void check_barrier() {
    if (!block.at_barrier || block.at_barrier + block.ended < block.count) return;
    Place place{"", 0};
    for (const Thread& thread : block.threads)
        if (thread.state == AT_BARRIER) {
            if (place.line && place != thread.place)
                fail_at("threads wait", place, " and", thread.place);
            place = thread.place;
        }
    if (block.ended) {
        char text[100];
        snprintf(text, sizeof text, "%u of %u threads have ended, while the others wait", block.ended, block.count);
        fail_at(text, place);
    }
}

// Gives each lane that came to a meeting its result.
void answer(unsigned first, unsigned mask) {
    Thread* lanes = &block.threads[first];
    const Thread* leader = nullptr;
    unsigned votes = 0;
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        const Thread& thread = lanes[lane];
        if (!leader) leader = &thread;
        if (leader->operation != thread.operation || leader->place != thread.place)
            fail_at("lanes of one warp meet", leader->place, " and", thread.place);
        votes |= (unsigned)(thread.predicate != 0) << lane;
    }
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        Thread& thread = lanes[lane];
        if (thread.operation == BALLOT) thread.predicate = (int)votes;
        if (thread.operation == SHUFFLE) {
            const int source = thread.source & 31;
            if (mask >> source & 1) memcpy(thread.got, lanes[source].given, thread.size);
            else memset(thread.got, 0xff, thread.size);  // undefined: NaN to floats
        }
        if (thread.operation == MATCH) {
            unsigned same = 0;
            for (int other = 0; other < 32; other++)
                if (mask >> other & 1)
                    same |= (unsigned)!memcmp(thread.given, lanes[other].given, thread.size) << other;
            thread.predicate = (int)same;
        }
    }
}

// Ends the meetings for which every lane that has not ended is there.
void check_meetings(unsigned warp_index) {
    Warp& warp = block.warps[warp_index];
    for (size_t i = 0; i < warp.meetings.size();) {
        const Meeting meeting = warp.meetings[i];
        if (!meeting.arrived || (meeting.mask & ~(meeting.arrived | warp.ended))) {
            i++;
            continue;
        }
        warp.meetings.erase(warp.meetings.begin() + i);
        answer(warp_index * 32, meeting.arrived);
        for (int lane = 0; lane < 32; lane++)
            if (meeting.arrived >> lane & 1) make_ready(warp_index * 32 + lane);
    }
}

void meet(unsigned mask, const Place& place) {
    if (!busy) emulationFail("%s:%d: a warp's function was called by the host", place.file, place.line);
    const unsigned self = block.current, lane = self & 31, warp = self / 32;
    if (!(mask >> lane & 1)) fail_at("a lane that is not part of the mask calls a warp's function", place);
    auto& meetings = block.warps[warp].meetings;
    Meeting* meeting = nullptr;
    for (Meeting& other : meetings)
        if (other.mask == mask) meeting = &other;
    if (!meeting) meetings.push_back({mask, 0}), meeting = &meetings.back();
    meeting->arrived |= 1u << lane;
    Thread& thread = block.threads[self];
    thread.mask = mask, thread.state = IN_WARP, thread.place = place;
    check_meetings(warp);
    wait(thread.state, place);
}

void end_thread() {
    Thread& thread = block.threads[block.current];
    thread.state = ENDED;
    block.ended++;
    block.warps[block.current / 32].ended |= 1u << (block.current & 31);
    check_meetings(block.current / 32);
    check_barrier();
}

void run_threads() {
    for (;;) {
        while (block.begun < block.count) {
            become(block.order->at(block.begun++));
            block.threads[block.current].state = RUNS;
            block.kernel->body(block.kernel->context);
            end_thread();
        }
        block.idle.push_back(block.running);
        emulationSwitch(&block.running->saved, block.scheduler);
    }
}

void switch_to(Fiber* fiber) {
    block.running = fiber;
    emulationSwitch(&block.scheduler, fiber->saved);
}

[[noreturn]] void report_deadlock() {
    for (const Thread& thread : block.threads)
        if (thread.state == IN_WARP) fail_at("lanes wait for others that never come", thread.place);
    fail("its threads wait for each other");
}

unsigned dynamic_bytes = 0;
char* dynamic_shared = nullptr;

}  // namespace

namespace emulation {

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
    block.kernel = &kernel;
    block.number++;
    if (block.count != threads) block.threads.resize(threads), block.warps.resize((threads + 31) / 32);
    block.count = threads;
    block.begun = block.ended = block.at_barrier = 0;
    for (Thread& thread : block.threads) thread.state = NOT_BEGUN;
    for (Warp& warp : block.warps) warp.ended = 0, warp.meetings.clear();
    if (threads % 32) block.warps.back().ended = ~0u << threads % 32;
    Order order(threads, seed);
    block.order = &order;
    memset(dynamic_shared, 0xff, dynamic_bytes);
    busy = true;
    while (block.ended < threads) {
        if (!block.ready.empty()) {
            const unsigned next = block.ready.front();
            block.ready.pop_front();
            become(next);
            switch_to(block.threads[next].fiber);
        } else if (block.begun < threads) {
            if (block.idle.empty()) block.idle.push_back(new Fiber(run_threads));
            Fiber* fiber = block.idle.back();
            block.idle.pop_back();
            switch_to(fiber);
        } else {
            report_deadlock();
        }
    }
    busy = false;
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

}  // namespace emulation

EMULATION_API int emulationLane() { return (int)(block.current & 31); }

EMULATION_API int emulationBarrier(int vote, int predicate, const char* file, int line) {
    enum { NONE, COUNT, AND, OR };
    if (!busy) emulationFail("%s:%d: a barrier was reached by the host", file, line);
    const Place place{file, line};
    Thread& thread = block.threads[block.current];
    thread.predicate = predicate;
    thread.state = AT_BARRIER, thread.place = place;
    block.at_barrier++;
    check_barrier();
    if (block.at_barrier == block.count) {
        int votes = 0;
        for (const Thread& other : block.threads) votes += other.predicate != 0;
        block.at_barrier = 0;
        for (unsigned turn = 0; turn < block.count; turn++) {
            const unsigned other = block.order->at(turn);
            block.threads[other].predicate = votes;
            make_ready(other);
        }
    }
    wait(block.threads[block.current].state, place);
    const int votes = block.threads[block.current].predicate;
    return vote == COUNT ? votes : vote == AND ? votes == (int)block.count : vote == OR ? votes != 0 : 0;
}

EMULATION_API void emulationShuffle(unsigned mask, int source, const void* given, void* got, size_t size,
                                    const char* file, int line) {
    if (!busy) emulationFail("%s:%d: a warp's function was called by the host", file, line);
    Thread& thread = block.threads[block.current];
    thread.operation = SHUFFLE, thread.source = source, thread.size = size, thread.predicate = 0;
    memcpy(thread.given, given, size);
    meet(mask, {file, line});
    memcpy(got, block.threads[block.current].got, size);
}

EMULATION_API unsigned emulationBallot(unsigned mask, bool predicate, const char* file, int line) {
    Thread& thread = block.threads[block.current];
    thread.operation = BALLOT, thread.predicate = predicate;
    meet(mask, {file, line});
    return (unsigned)block.threads[block.current].predicate;
}

EMULATION_API unsigned emulationMatch(unsigned mask, const void* value, size_t size, const char* file, int line) {
    Thread& thread = block.threads[block.current];
    thread.operation = MATCH, thread.size = size;
    memcpy(thread.given, value, size);
    meet(mask, {file, line});
    return (unsigned)block.threads[block.current].predicate;
}

EMULATION_API void* emulationDynamicShared(const char* file, int line) {
    if (!busy) emulationFail("%s:%d: `extern __shared__` belongs into a kernel", file, line);
    return dynamic_shared;
}

EMULATION_API void emulationStaticShared(void* variable, size_t size, unsigned long* last_block) {
    if (*last_block == block.number) return;
    *last_block = block.number;
    memset(variable, 0xff, size);
}
