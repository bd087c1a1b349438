// The device's functions of __half that NVIDIA's header has for nvcc alone.
#pragma once

#include "emulation/half_functions.h"

EMULATION_HALF_FUNCTIONS(__half, __half2, __float2half_rn, __half2float, __floats2half2_rn, __half22float2)
inline int __half2int_rn(__half h) { return (int)rintf(__half2float(h)); }
inline int __half2int_rd(__half h) { return (int)floorf(__half2float(h)); }
inline int __half2int_ru(__half h) { return (int)ceilf(__half2float(h)); }
