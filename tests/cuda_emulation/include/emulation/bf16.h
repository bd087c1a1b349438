// The device's functions of __nv_bfloat16 that NVIDIA's header has for nvcc alone.
#pragma once

#include "emulation/half_functions.h"

EMULATION_HALF_FUNCTIONS(__nv_bfloat16, __nv_bfloat162, __float2bfloat16_rn, __bfloat162float, __floats2bfloat162_rn,
                         __bfloat1622float2)
inline int __bfloat162int_rn(__nv_bfloat16 h) { return (int)rintf(__bfloat162float(h)); }
inline int __bfloat162int_rd(__nv_bfloat16 h) { return (int)floorf(__bfloat162float(h)); }
inline int __bfloat162int_ru(__nv_bfloat16 h) { return (int)ceilf(__bfloat162float(h)); }
