// NVIDIA's header as C++ compilers read it, without PTX, and what it then leaves out.
#pragma once

#ifdef __CUDACC__
#undef __CUDACC__
#include "nvidia/cuda_fp16.h"
#define __CUDACC__
#include "emulation/fp16.h"
#else
#include "nvidia/cuda_fp16.h"
#endif
