// What was asked of the device, counted: by name from a test in the process, or as a line of JSON at its end.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <unistd.h>

#include "emulation.h"

namespace {

const char* const NAMES[emulation::COUNTS] = {
    "launches",       "products",      "random",           "copies_to_device", "bytes_to_device",
    "copies_to_host", "bytes_to_host", "copies_on_device", "fills",            "synchronisations"};

long long counts[emulation::COUNTS];
std::map<std::string, long long>& kernels() {
    static auto& names = *new std::map<std::string, long long>;  // never destroyed: others end later than this library
    return names;
}
std::mutex mutex;
cudaError_t last_error = cudaSuccess;

std::string json() {
    std::string text = "{";
    for (int i = 0; i < emulation::COUNTS; i++)
        text += "\"" + std::string(NAMES[i]) + "\": " + std::to_string(counts[i]) + ", ";
    text += "\"kernels\": {";
    const char* comma = "";
    for (const auto& kernel : kernels()) {
        text += comma + ("\"" + kernel.first + "\": ") + std::to_string(kernel.second);
        comma = ", ";
    }
    return text + "}}";
}

struct AtExit {
    ~AtExit() {
        const char* path = getenv("CUDA_EMULATION_REPORT");
        FILE* file = path && *path ? fopen(path, "a") : nullptr;
        if (!file) return;
        fprintf(file, "%s\n", json().c_str());
        fclose(file);
    }
} at_exit;

}  // namespace

EMULATION_API void emulationCount(emulation::Count what, long long more) {
    std::lock_guard<std::mutex> lock(mutex);
    counts[what] += more;
}

EMULATION_API void emulationCountKernel(const char* name) {
    emulationTrace(name, 0);
    std::lock_guard<std::mutex> lock(mutex);
    counts[emulation::LAUNCHES]++;
    kernels()[name]++;
}

EMULATION_API void emulationTrace(const char* what, size_t bytes) {
    static const bool wanted = getenv("CUDA_EMULATION_TRACE") != nullptr;
    if (wanted && bytes) fprintf(stderr, "cuda emulation: %s, %zu bytes\n", what, bytes);
    else if (wanted) fprintf(stderr, "cuda emulation: %s\n", what);
}

// All counts so far as JSON, valid until the next call: {"launches": 3, …, "kernels": {name: launches}}.
EMULATION_API const char* emulationCounts() {
    std::lock_guard<std::mutex> lock(mutex);
    static std::string text;
    text = json();
    return text.c_str();
}

EMULATION_API void emulationFail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    fputs("cuda emulation: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("\n", stderr);
    fflush(stderr);
    va_end(arguments);
    _exit(86);
}

EMULATION_API cudaError_t emulationError(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

EMULATION_API cudaError_t cudaPeekAtLastError() { return last_error; }

EMULATION_API cudaError_t cudaGetLastError() {
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}
