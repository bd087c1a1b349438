#include <cstdint>
#include <cstring>

// bfloat16, the upper half of a float.
struct Bf16 {
    uint16_t bits;
    operator float() const {
        const uint32_t whole = (uint32_t)bits << 16;
        float value;
        std::memcpy(&value, &whole, sizeof value);
        return value;
    }
};
