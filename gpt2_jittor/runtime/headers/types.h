// Stands before Jittor 1.3.11's header of this name: as of g++ 15 no standard header that it includes brings these names.
#pragma once
#include <cstdint>
#include_next <types.h>
