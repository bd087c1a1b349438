"""Whether oneDNN's product of int8 matrices is exact here. Without instructions for it, it saturates at 16 bits."""

import ctypes
import functools

import numpy as np

from gpt2_jittor.runtime import cpu


@functools.cache
def work() -> bool:
    """Whether the processor has such instructions, and the largest sums that int8 can make come out right."""
    return bool(cpu.int8_instructions()) and is_exact()


def is_exact() -> bool:
    """Whether products of the largest numbers are right, of either sign and for either order of the second matrix."""
    rows, width, columns = 3, 70, 33
    signs = np.random.default_rng(0).choice(np.array([-127, 127], np.int8), (rows + columns, width))
    signs[0] = signs[-1] = 127
    a, b = signs[:rows], signs[rows:]
    expected = a.astype(np.int32) @ b.astype(np.int32).T
    return all(
        np.array_equal(_product(a, np.ascontiguousarray(given), transposed), expected)
        for given, transposed in ((b, True), (b.T, False))
    )


def _product(a: np.ndarray, b: np.ndarray, transposed: bool) -> np.ndarray:
    """a @ b, or a @ bᵀ, by `dnnl_gemm_s8s8s32`: int8 → int32."""
    size, flag, byte, pointer = ctypes.c_int64, ctypes.c_char, ctypes.c_int8, ctypes.c_void_p
    multiply = ctypes.CDLL(None).dnnl_gemm_s8s8s32
    multiply.argtypes = [*[flag] * 3, *[size] * 3, ctypes.c_float, pointer, size, byte, pointer, size, byte]
    multiply.argtypes += [ctypes.c_float, pointer, size, pointer]
    (rows, width), columns = a.shape, b.shape[0 if transposed else 1]
    a = np.ascontiguousarray(a)
    c, nothing = np.empty((rows, columns), np.int32), np.zeros(1, np.int32)
    order = (b"N", b"T" if transposed else b"N", b"F", rows, columns, width)
    first, second = (a.ctypes.data, a.shape[1], 0), (b.ctypes.data, b.shape[1], 0)
    multiply(*order, 1.0, *first, *second, 0.0, c.ctypes.data, columns, nothing.ctypes.data)
    return c
