// The words that CUDA C++ adds to C++, for a compiler that has one kind of processor. NVIDIA's file of this name belongs
// to nvcc and not to the runtime's headers, so this nvcc brings its own.
#pragma once

#define __forceinline__ __inline__ __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __align__(n)
#define CUDARTAPI

#define __host__
#define __device__
#define __global__
#define __constant__
#define __managed__
#define __grid_constant__
#define __launch_bounds__(...)
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __cudart_builtin__
#define __nv_pure__
// `__shared__` stays a word: rewrite.py turns it into a variable of the block
