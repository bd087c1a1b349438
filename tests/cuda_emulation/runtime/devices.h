// How many devices there are: one, or as many as CUDA_EMULATION_DEVICES says, of which CUDA_VISIBLE_DEVICES shows some.
// They are alike, and a process has the memory of one.
#pragma once

#include <cstdlib>

static int devices() {
    const char *there = getenv("CUDA_EMULATION_DEVICES"), *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (!visible) return there ? atoi(there) : 1;
    int count = *visible != 0;
    for (; *visible; visible++) count += *visible == ',';
    return count;
}
