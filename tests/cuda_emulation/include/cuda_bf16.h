// NVIDIA's header as C++ compilers read it, without PTX, and what it then leaves out.
#pragma once

#ifdef __CUDACC__
#undef __CUDACC__
#include "nvidia/cuda_bf16.h"
#define __CUDACC__
#include "emulation/bf16.h"
#else
#include "nvidia/cuda_bf16.h"
#endif
