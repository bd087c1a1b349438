// What a signal must not break in Jittor 1.3.11, which has no setting for either: its calls are led to functions of ours.
// - A shell, `timeout` or a scheduler signals a whole process group; a compilation that died of it would take an update
//   with it. `system_with_check` (src/utils/log.cc) is led to one that differs by POSIX_SPAWN_SETSID alone.
// - The lock of its cache is waited for while another process compiles. A wait that a signal ends (EINTR) is an error to
//   it (src/lock.cc), raised from the midst of a graph, whose memory is in disorder then. Here the wait goes on.
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <iostream>
#include <link.h>
#include <spawn.h>
#include <stdexcept>
#include <string>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

// Runs a shell's command. Throws where it fails; what it said is on stderr then.
static void run_in_session(const char* command, const char*) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) throw std::runtime_error("too many open files: no compiler can be started");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
    const char* const line[] = {"sh", "-c", command, nullptr};
    pid_t shell;
    const int refused = posix_spawn(&shell, "/bin/sh", &actions, &attributes, const_cast<char* const*>(line), environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    close(ends[1]);
    std::string output;
    char piece[4096];
    for (ssize_t size; (size = read(ends[0], piece, sizeof piece)) > 0 || (size < 0 && errno == EINTR);)
        if (size > 0) output.append(piece, size);
    close(ends[0]);
    int status = 1;
    while (!refused && waitpid(shell, &status, 0) < 0 && errno == EINTR) {}
    if (refused || status) {
        std::cerr << output;
        throw std::runtime_error("status " + std::to_string(status) + " of: " + command);
    }
}

// fcntl(2), as src/lock.cc calls it.
static int wait_for_lock(int file, int command, struct flock* lock) {
    int result;
    while ((result = fcntl(file, command, lock)) < 0 && errno == EINTR) {}
    return result;
}

struct Led {
    const char* called;
    void* function;
    int calls;
};

static Led compiling{"_ZN6jittor17system_with_checkEPKcS1_", (void*)run_in_session, 0};
static Led locking{"fcntl", (void*)wait_for_lock, 0}, locking64{"fcntl64", (void*)wait_for_lock, 0};  // glibc has both

// Writes the functions into the slots through which a library of Jittor's calls the others; counts them.
static int lead_calls(dl_phdr_info* library, size_t, void*) {
    if (!strstr(library->dlpi_name, "jit_utils_core") && !strstr(library->dlpi_name, "jittor_core")) return 0;
    const ElfW(Dyn)* entry = nullptr;
    for (int i = 0; i < library->dlpi_phnum; i++)
        if (library->dlpi_phdr[i].p_type == PT_DYNAMIC)
            entry = (const ElfW(Dyn)*)(library->dlpi_addr + library->dlpi_phdr[i].p_vaddr);
    const ElfW(Rela)* calls = nullptr;
    const ElfW(Sym)* symbols = nullptr;
    const char* names = nullptr;
    size_t bytes = 0;
    for (; entry && entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == DT_JMPREL) calls = (const ElfW(Rela)*)entry->d_un.d_ptr;
        if (entry->d_tag == DT_PLTRELSZ) bytes = entry->d_un.d_val;
        if (entry->d_tag == DT_SYMTAB) symbols = (const ElfW(Sym)*)entry->d_un.d_ptr;
        if (entry->d_tag == DT_STRTAB) names = (const char*)entry->d_un.d_ptr;
    }
    const uintptr_t page = sysconf(_SC_PAGESIZE);
    for (size_t i = 0; calls && symbols && names && i < bytes / sizeof *calls; i++) {
        const char* const called = names + symbols[calls[i].r_info >> 32].st_name;  // ELF64_R_SYM
        const uintptr_t slot = library->dlpi_addr + calls[i].r_offset;
        for (Led* each : {&compiling, &locking, &locking64}) {
            if (strcmp(called, each->called)) continue;
            if (mprotect((void*)(slot & ~(page - 1)), page, PROT_READ | PROT_WRITE)) continue;
            *(void**)slot = each->function;
            each->calls++;
        }
    }
    return 0;
}

// Whether both are led, so that no signal breaks them any more.
static bool lead_interrupted_calls() {
    dl_iterate_phdr(lead_calls, nullptr);
    return compiling.calls && locking.calls + locking64.calls;
}
