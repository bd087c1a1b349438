// The device's memory: pages of the host that only the device may touch, each allocation between two that nobody may.
//
// An access beyond an allocation, and one by the host, is a fault of the page; a write into the few bytes between an
// allocation's end and the page's is found when it is freed. Fresh memory is NaN.
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>

#include "emulation.h"

namespace {

constexpr size_t PAGE = 4096, ALIGNMENT = 256;
constexpr unsigned char FRESH = 0xff, PADDING = 0xa5;
constexpr size_t TOTAL = (size_t)16 << 30;

enum Kind { DEVICE, MANAGED, PINNED };

struct Allocation {
    size_t bytes;  // as they were asked for
    Kind kind;
    char* pages;   // between the two guards
    size_t length;
};

std::map<uintptr_t, Allocation>& allocations() {
    static auto& all = *new std::map<uintptr_t, Allocation>;
    return all;
}
std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;
size_t used = 0;
int working = 0;  // DeviceWorks that live

size_t rounded(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

void protect(const Allocation& allocation, int protection) {
    if (allocation.kind == DEVICE && mprotect(allocation.pages, allocation.length, protection))
        emulationFail("mprotect failed: too many allocations for this system's vm.max_map_count");
}

const std::pair<const uintptr_t, Allocation>* find(const void* pointer) {
    auto after = allocations().upper_bound((uintptr_t)pointer);
    if (after == allocations().begin()) return nullptr;
    const auto& candidate = *--after;
    return (uintptr_t)pointer <= candidate.first + candidate.second.bytes ? &candidate : nullptr;
}

cudaError_t allocate(void** pointer, size_t bytes, Kind kind) {
    Lock lock(mutex);
    *pointer = nullptr;
    if (!bytes) return cudaSuccess;
    if (used + bytes > TOTAL) return emulationError(cudaErrorMemoryAllocation);
    const size_t padded = rounded(bytes, ALIGNMENT), length = rounded(padded, PAGE);
    void* mapped = mmap(nullptr, length + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return emulationError(cudaErrorMemoryAllocation);
    Allocation allocation{bytes, kind, (char*)mapped + PAGE, length};
    if (mprotect(allocation.pages, length, PROT_READ | PROT_WRITE))
        return emulationError(cudaErrorMemoryAllocation);
    char* start = allocation.pages + length - padded;
    memset(allocation.pages, PADDING, start - allocation.pages);
    memset(start, FRESH, bytes);
    memset(start + bytes, PADDING, padded - bytes);
    if (!working) protect(allocation, PROT_NONE);
    allocations()[(uintptr_t)start] = allocation;
    used += bytes;
    *pointer = start;
    return cudaSuccess;
}

cudaError_t release(void* pointer) {
    if (!pointer) return cudaSuccess;
    Lock lock(mutex);
    const auto found = allocations().find((uintptr_t)pointer);
    if (found == allocations().end()) return emulationError(cudaErrorInvalidValue);
    const Allocation allocation = found->second;
    protect(allocation, PROT_READ);
    const char* start = (char*)pointer;
    for (const char* at = allocation.pages; at < allocation.pages + allocation.length; at++) {
        if (at == start) at += allocation.bytes;
        if (at < allocation.pages + allocation.length && (unsigned char)*at != PADDING)
            emulationFail("something was written %ld bytes after the start of an allocation of %zu", at - start,
                          allocation.bytes);
    }
    munmap(allocation.pages - PAGE, allocation.length + 2 * PAGE);
    used -= allocation.bytes;
    allocations().erase(found);
    return cudaSuccess;
}

// Whether all bytes lie within one allocation; false too where some do and some do not.
bool inside(const void* pointer, size_t bytes) {
    const auto* found = find(pointer);
    return found && (uintptr_t)pointer + bytes <= found->first + found->second.bytes;
}

cudaError_t copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, bool waits) {
    if (!bytes) return cudaSuccess;
    Lock lock(mutex);
    const auto *target = find(to), *source = find(from);
    const bool to_device = target && target->second.kind != PINNED, from_device = source && source->second.kind != PINNED;
    const bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind != cudaMemcpyDefault) {  // managed memory is both
        const bool managed_to = target && target->second.kind == MANAGED;
        const bool managed_from = source && source->second.kind == MANAGED;
        if ((wants_to != to_device && !managed_to) || (wants_from != from_device && !managed_from))
            return emulationError(cudaErrorInvalidValue);
    }
    if ((target && !inside(to, bytes)) || (source && !inside(from, bytes)))
        return emulationError(cudaErrorInvalidValue);
    emulation::DeviceWorks works;
    memmove(to, from, bytes);
    if (to_device && from_device) {
        emulationCount(emulation::COPIES_ON_DEVICE, 1);
    } else if (to_device) {
        emulationCount(emulation::COPIES_TO_DEVICE, 1);
        emulationCount(emulation::BYTES_TO_DEVICE, bytes);
        emulationTrace("a copy to the device", bytes);
    } else if (from_device) {
        emulationCount(emulation::COPIES_TO_HOST, 1);
        emulationCount(emulation::BYTES_TO_HOST, bytes);
        emulationTrace("a copy to the host", bytes);
        if (waits) emulationCount(emulation::SYNCHRONISATIONS, 1);
    }
    return cudaSuccess;
}

cudaError_t fill(void* pointer, int value, size_t bytes) {
    Lock lock(mutex);
    if (!inside(pointer, bytes)) return emulationError(cudaErrorInvalidValue);
    emulation::DeviceWorks works;
    memset(pointer, value, bytes);
    emulationCount(emulation::FILLS, 1);
    return cudaSuccess;
}

}  // namespace

EMULATION_API bool emulationOnDevice(const void* pointer, size_t bytes) {
    Lock lock(mutex);
    return inside(pointer, bytes);
}

EMULATION_API void emulationOpenMemory() {
    mutex.lock();
    if (!working++)
        for (const auto& allocation : allocations()) protect(allocation.second, PROT_READ | PROT_WRITE);
}

EMULATION_API void emulationCloseMemory() {
    if (!--working)
        for (const auto& allocation : allocations()) protect(allocation.second, PROT_NONE);
    mutex.unlock();
}

EMULATION_API cudaError_t cudaMalloc(void** pointer, size_t bytes) { return allocate(pointer, bytes, DEVICE); }
EMULATION_API cudaError_t cudaMallocManaged(void** pointer, size_t bytes, unsigned) {
    return allocate(pointer, bytes, MANAGED);
}
EMULATION_API cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return allocate(pointer, bytes, PINNED); }
EMULATION_API cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
    return allocate(pointer, bytes, PINNED);
}
EMULATION_API cudaError_t cudaFree(void* pointer) { return release(pointer); }
EMULATION_API cudaError_t cudaFreeHost(void* pointer) { return release(pointer); }
EMULATION_API cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    *free = TOTAL - used, *total = TOTAL;
    return cudaSuccess;
}
EMULATION_API cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    return copy(to, from, bytes, kind, true);
}
EMULATION_API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
    return copy(to, from, bytes, kind, false);
}
EMULATION_API cudaError_t cudaMemset(void* pointer, int value, size_t bytes) { return fill(pointer, value, bytes); }
EMULATION_API cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t) {
    return fill(pointer, value, bytes);
}
// `__device__` and `__constant__` variables are variables of the program.
EMULATION_API cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, size_t bytes, size_t offset,
                                             cudaMemcpyKind) {
    emulation::DeviceWorks works;
    memcpy((char*)symbol + offset, from, bytes);
    emulationCount(emulation::COPIES_TO_DEVICE, 1);
    emulationCount(emulation::BYTES_TO_DEVICE, bytes);
    return cudaSuccess;
}
EMULATION_API cudaError_t cudaMemcpyFromSymbol(void* to, const void* symbol, size_t bytes, size_t offset,
                                               cudaMemcpyKind) {
    emulation::DeviceWorks works;
    memcpy(to, (const char*)symbol + offset, bytes);
    emulationCount(emulation::COPIES_TO_HOST, 1);
    emulationCount(emulation::BYTES_TO_HOST, bytes);
    emulationCount(emulation::SYNCHRONISATIONS, 1);
    return cudaSuccess;
}
EMULATION_API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
    Lock lock(mutex);
    const auto* found = find(pointer);
    memset(attributes, 0, sizeof *attributes);
    const cudaMemoryType types[] = {cudaMemoryTypeDevice, cudaMemoryTypeManaged, cudaMemoryTypeHost};
    attributes->type = found ? types[found->second.kind] : cudaMemoryTypeUnregistered;
    if (found) attributes->devicePointer = (void*)pointer;
    return cudaSuccess;
}
