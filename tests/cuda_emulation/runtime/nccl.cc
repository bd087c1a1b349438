// The stand-in for NCCL: sums over processes of this machine, through a file in /dev/shm. What the project does not call
// is declared in nccl.h and not here.
#include "nccl.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sched.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#include "emulation.h"

namespace {

constexpr size_t PIECE = 1 << 20;  // bytes of each process that are summed at a time

struct Meeting {
    std::atomic<int> arrived, turn;

    void wait(int count) {
        const int now = turn;
        if (++arrived == count) arrived = 0, turn++;
        else while (turn == now) sched_yield();
    }
};

template <class T>
void add(char* to, const char* from, size_t bytes) {
    for (size_t i = 0; i < bytes / sizeof(T); i++) ((T*)to)[i] += ((const T*)from)[i];
}

}  // namespace

struct ncclComm {
    Meeting* meeting;
    std::string path;
    int rank, count;

    char* piece(int rank) { return (char*)(meeting + 1) + rank * PIECE; }
};

EMULATION_API const char* ncclGetErrorString(ncclResult_t result) { return result ? "NCCL's stand-in failed" : "no error"; }

EMULATION_API ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/dev/shm/emulated-nccl-%d", (int)getpid());
    unlink(id->internal);
    return ncclSuccess;
}

EMULATION_API ncclResult_t ncclCommInitRank(ncclComm_t* comm, int count, ncclUniqueId id, int rank) {
    const size_t bytes = sizeof(Meeting) + count * PIECE;
    const int file = open(id.internal, O_CREAT | O_RDWR, 0600);
    if (file < 0 || ftruncate(file, bytes)) return ncclSystemError;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED) return ncclSystemError;
    *comm = new ncclComm{(Meeting*)memory, id.internal, rank, count};
    (*comm)->meeting->wait(count);
    return ncclSuccess;
}

EMULATION_API ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    unlink(comm->path.c_str());
    return ncclSuccess;
}

EMULATION_API ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                                         ncclComm_t comm, cudaStream_t) {
    const bool wide = type == ncclFloat64;
    if (op != ncclSum || (!wide && type != ncclFloat32)) return ncclInvalidArgument;
    const size_t bytes = count * (wide ? 8 : 4);
    if (!emulationOnDevice(from, bytes) || !emulationOnDevice(to, bytes)) return ncclInvalidArgument;
    emulationCountKernel("ncclAllReduce");
    const emulation::DeviceWorks works;
    for (size_t start = 0; start < bytes; start += PIECE) {
        const size_t length = std::min(PIECE, bytes - start);
        memcpy(comm->piece(comm->rank), (const char*)from + start, length);
        comm->meeting->wait(comm->count);
        memset((char*)to + start, 0, length);
        for (int rank = 0; rank < comm->count; rank++)
            (wide ? add<double> : add<float>)((char*)to + start, comm->piece(rank), length);
        comm->meeting->wait(comm->count);
    }
    return ncclSuccess;
}
