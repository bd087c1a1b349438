"""The stand-in libraries in this process, through ctypes."""

import ctypes
import functools
import json

import numpy as np

from tests.cuda_emulation import home

TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind


@functools.cache
def library(name: str) -> ctypes.CDLL:
    """`cudart`, `cublas` or `curand`."""
    return ctypes.CDLL(str(home.build() / "lib64" / f"lib{name}.so"))


def counts() -> dict:
    """What was asked of the device so far: see README.md."""
    told = library("cudart").emulationCounts
    told.restype = ctypes.c_char_p
    return json.loads(told())


class Array:
    """An array in the device's memory."""

    def __init__(self, values: np.ndarray):
        self._values = np.ascontiguousarray(values)
        self.pointer = ctypes.c_void_p()
        assert library("cudart").cudaMalloc(ctypes.byref(self.pointer), ctypes.c_size_t(self._values.nbytes)) == 0
        self._copy(self.pointer, self._values.ctypes.data_as(ctypes.c_void_p), TO_DEVICE)

    def numpy(self) -> np.ndarray:
        values = np.empty_like(self._values)
        self._copy(values.ctypes.data_as(ctypes.c_void_p), self.pointer, TO_HOST)
        return values

    def _copy(self, to, source, kind: int) -> None:
        assert library("cudart").cudaMemcpy(to, source, ctypes.c_size_t(self._values.nbytes), kind) == 0
