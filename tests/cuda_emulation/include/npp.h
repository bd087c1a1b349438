// The limits that Jittor reads from NVIDIA's header of image processing.
#pragma once

#include <limits.h>

#define NPP_MIN_32U 0
#define NPP_MAX_32U UINT_MAX
#define NPP_MIN_32S INT_MIN
#define NPP_MAX_32S INT_MAX
#define NPP_MIN_64U 0
#define NPP_MAX_64U ULLONG_MAX
#define NPP_MIN_64S LLONG_MIN
#define NPP_MAX_64S LLONG_MAX
