// What g++'s checks call when they find something: places outside of an array, addresses that are no multiple of a type.
#include "emulation.h"

namespace {

// as libubsan's ABI has them
struct Place {
    const char* file;
    unsigned line, column;
};
struct Type {
    unsigned short kind, info;
    char name[1];
};
struct Misaligned {
    Place place;
    const Type* type;
    unsigned char log_alignment, access;
};
struct OutOfBounds {
    Place place;
    const Type *array, *index;
};

}  // namespace

EMULATION_API void __ubsan_handle_type_mismatch_v1_abort(Misaligned* found, void* address) {
    emulationFail("%s:%u: address %p is misaligned for %s, which needs a multiple of %d", found->place.file,
                  found->place.line, address, found->type->name, 1 << found->log_alignment);
}

EMULATION_API void __ubsan_handle_out_of_bounds_abort(OutOfBounds* found, size_t index) {
    emulationFail("%s:%u: index %ld is outside of %s", found->place.file, found->place.line, (long)index,
                  found->array->name);
}
