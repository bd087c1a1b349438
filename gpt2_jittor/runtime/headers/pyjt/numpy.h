// Stands before Jittor 1.3.11's header of this name. numpy 2 moved the size of an element within its descriptor and
// PyArray_CopyInto within its table of functions (82 to 50, as of feature version 0x12), and
// reads more of the descriptor that Jittor fills in for PyArray_CastScalarToCtype.
// Right for numpy 1 as well: what is compiled with one runs with the other.
#pragma once
#define PyArray_Size PyArray_Size_of_numpy_1
#include_next <pyjt/numpy.h>
#undef PyArray_Size

namespace jittor {

inline int64 PyArray_Size(PyArray_Proxy* array) {
    int64 size = get_type_str(array).dsize();
    for (int i = 0; i < array->nd; i++) size *= array->dimensions[i];
    return size;
}

inline int numpy_copy_into(PyObject* to, PyObject* from) {
    const int slot = PyArray_GetNDArrayCFeatureVersion() >= 0x12 ? 50 : 82;
    return ((int (*)(PyObject*, PyObject*))PyArray_API[slot])(to, from);
}

// of a scalar that stands as an index
inline void numpy_to_int(PyObject* scalar, int* value) {
    PyObjHolder number(PyNumber_Long(scalar));
    *value = (int)PyLong_AsLong(number.obj);
}

}  // namespace jittor

// calls alone: the pointers of these names stay
#define PyArray_CopyInto(to, from) numpy_copy_into(to, from)
#define PyArray_CastScalarToCtype(scalar, value, descriptor) numpy_to_int(scalar, value)
