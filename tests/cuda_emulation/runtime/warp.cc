// Functions of a warp: each lane brings what it gives to a meeting; the last to come works out what all take away.
#include "block.h"

namespace emulation {

namespace {

void shuffle(Thread* lanes, unsigned mask, Thread& thread) {
    const int source = thread.source & 31;
    if (mask >> source & 1) memcpy(thread.got, lanes[source].given, thread.size);
    else memset(thread.got, 0xff, thread.size);  // undefined: NaN to floats
}

int match(const Thread* lanes, unsigned mask, const Thread& thread) {
    unsigned same = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) same |= (unsigned)!memcmp(thread.given, lanes[lane].given, thread.size) << lane;
    return (int)same;
}

void answer(Thread* lanes, unsigned mask) {
    const Thread& leader = lanes[__builtin_ctz(mask)];
    unsigned votes = 0;
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        const Thread& thread = lanes[lane];
        if (leader.operation != thread.operation || leader.place != thread.place)
            fail_at("lanes of one warp meet", leader.place, &thread.place);
        votes |= (unsigned)(thread.predicate != 0) << lane;
    }
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        Thread& thread = lanes[lane];
        if (thread.operation == SHUFFLE) shuffle(lanes, mask, thread);
        else thread.predicate = thread.operation == BALLOT ? (int)votes : match(lanes, mask, thread);
    }
}

Meeting& meeting_of(Warp& warp, unsigned mask) {
    for (Meeting& meeting : warp.meetings)
        if (meeting.mask == mask) return meeting;
    warp.meetings.push_back({mask, 0});
    return warp.meetings.back();
}

Thread& myself(const char* file, int line) {
    if (!block.busy) emulationFail("%s:%d: a warp's function was called by the host", file, line);
    return block.self();
}

void meet(unsigned mask, Operation operation, const Place& place) {
    const unsigned lane = block.current & 31, warp = block.current / 32;
    if (!(mask >> lane & 1)) fail_at("a lane that is not part of the mask calls a warp's function", place);
    Thread& thread = block.self();
    thread.operation = operation, thread.state = IN_WARP, thread.place = place;
    meeting_of(block.warps[warp], mask).arrived |= 1u << lane;
    check_meetings(warp);
    wait();
}

}  // namespace

void check_meetings(unsigned warp_index) {
    Warp& warp = block.warps[warp_index];
    const unsigned first = warp_index * 32;
    for (size_t i = 0; i < warp.meetings.size();) {
        const Meeting meeting = warp.meetings[i];
        if (meeting.mask & ~(meeting.arrived | warp.ended)) {
            i++;
            continue;
        }
        warp.meetings.erase(warp.meetings.begin() + i);
        answer(&block.threads[first], meeting.arrived);
        for (unsigned lane = 0; lane < 32; lane++)
            if (meeting.arrived >> lane & 1) make_ready(first + lane);
    }
}

}  // namespace emulation

using namespace emulation;

EMULATION_API int emulationLane() { return (int)(block.current & 31); }

EMULATION_API void emulationShuffle(unsigned mask, int source, const void* given, void* got, size_t size,
                                    const char* file, int line) {
    Thread& thread = myself(file, line);
    thread.source = source, thread.size = size;
    memcpy(thread.given, given, size);
    meet(mask, SHUFFLE, {file, line});
    memcpy(got, thread.got, size);
}

EMULATION_API unsigned emulationBallot(unsigned mask, bool predicate, const char* file, int line) {
    Thread& thread = myself(file, line);
    thread.predicate = predicate;
    meet(mask, BALLOT, {file, line});
    return (unsigned)thread.predicate;
}

EMULATION_API unsigned emulationMatch(unsigned mask, const void* value, size_t size, const char* file, int line) {
    Thread& thread = myself(file, line);
    thread.size = size;
    memcpy(thread.given, value, size);
    meet(mask, MATCH, {file, line});
    return (unsigned)thread.predicate;
}
