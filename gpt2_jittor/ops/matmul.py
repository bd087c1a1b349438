"""Matrix products in float16 or bfloat16, everything else in float32.

A product rounds its two inputs to the half type, sums in float32, and rounds its result to the half type once; what
comes back is float32 again, so sums, norms, softmax and loss around it never see anything else. The gradient's
products are made in the same way. That is what `torch.autocast` does.

On CUDA the products are `cublasGemmEx` and `cublasGemmStridedBatchedEx`, called through Jittor's own operators
`cublas_matmul` and `cublas_batched_matmul` with both inputs in the half type: inputs and result CUDA_R_16F or
CUDA_R_16BF, compute type CUBLAS_COMPUTE_32F, algorithm CUBLAS_GEMM_DEFAULT_TENSOR_OP (Jittor 1.3.11, CUDA 11 and
later). With CUDA 10 it asks for sums in float16 and hands over α and β of another type: `runtime/precision.py` refuses
that.
Where cuBLAS splits a long sum, it may add its parts up in the half type, as in PyTorch unless that is told otherwise.

Of Jittor's own switches none is used, as each of them changes float32 as well:
- `use_tensorcore` 1, 2, 3 lets float32 products be made in TF32, bfloat16 or float16, and those of half types be summed
  in float16; at 0, where it stays, float32 is float32, and half types run on tensor cores all the same.
- `auto_mixed_precision_level` from 4 on makes float16 what any operator computes of two float32 arrays, the residual
  stream's sums and AdamW's included; from float32 it never gets to bfloat16, and below 4 it does nothing of use here.

Some processors multiply bfloat16: `kernels/half_products.h` makes the CPU's products with weights, and gives float32.
Composed, as here, there are none: Jittor would sum in the half type, and cuts bfloat16 off where CUDA rounds to the
nearest. For tests inputs and results are rounded in the same places as on CUDA, around a product in float32. Products
of two half numbers are exact in float32, so the two devices differ by the order of a sum alone.
"""

import contextlib
from collections.abc import Iterator

import numpy as np

from gpt2_jittor.ops.sources import header
from gpt2_jittor.runtime.backend import jt

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_current = "fp32"
ROWS_AT_A_TIME = 1024  # of an array that is rounded


def current_precision() -> str:
    """The precision in which products are made now."""
    return _current


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Makes the products within in this precision; graphs built inside keep it for their backward pass."""
    global _current
    before, _current = _current, precision
    try:
        yield
    finally:
        _current = before


def matmul(a, b, transposed: bool = False):
    """a @ b, or a @ bᵀ where `transposed`: float32, in the current precision.

    a [..., n, m] and b [..., m, k] or [..., k, m], of as many dimensions, the leading ones alike → [..., n, k]. Each
    is float32, or of the half type already.
    """
    if _current != "fp32":
        return _Matmul.apply(a, b, transposed, _DTYPES[_current])
    if not transposed:
        return jt.matmul(a, b)
    return jt.nn.matmul_transpose(a, b) if a.ndim == 2 else jt.nn.bmm_transpose(a, b)


def to_compute_dtype(x):
    """x as the products of the current precision take it: to be kept in their type where it is used again."""
    return _rounded(x, _DTYPES[_current])


def to_half(array: np.ndarray, precision: str):
    """A Var of the half type from float32 numbers, rounded to the nearest on every device, ties to even."""
    if precision == "fp16":
        return jt.array(array.astype(np.float16))
    bits = np.array(array, np.float32).view(np.uint32)  # a copy, rounded in place: a table is large
    for start in range(0, len(bits), ROWS_AT_A_TIME):
        _round_bits(bits[start : start + ROWS_AT_A_TIME])
    return jt.array(bits.view(np.float32)).bfloat16()


def bf16_bits(array: np.ndarray) -> np.ndarray:
    """float32 rounded to bfloat16, the nearest, ties to even: the upper half of its bits, uint16."""
    bits = np.array(array, np.float32).view(np.uint32)
    _round_bits(bits)
    return (bits >> 16).astype(np.uint16)


def _round_bits(bits: np.ndarray) -> None:
    """Rounds the bits of float32 numbers, uint32, to those of bfloat16, in place."""
    bits += 0x7FFF + ((bits >> 16) & 1)  # finite, so that nothing wraps around
    bits &= np.uint32(0xFFFF0000)


def in_type_of(var, array: np.ndarray):
    """A Var of float32 numbers in the type of another, rounded to the nearest."""
    precision = next((name for name, dtype in _DTYPES.items() if dtype == var.dtype), "fp32")
    return jt.array(array) if precision == "fp32" else to_half(array, precision)


class _Matmul(jt.Function):
    def execute(self, a, b, transposed, dtype):
        """a @ b, or a @ bᵀ, float32. Both are kept in the half type, in half the memory."""
        self.transposed, self.dtype = transposed, dtype
        self.a, self.b = _rounded(a, dtype), _rounded(b, dtype)
        return _multiplied(self.a, self.b, False, transposed).float32()

    def grad(self, dy):
        """dy float32 [..., n, k] → the gradients by a and b, float32, from products in the half type."""
        dy = _rounded(dy, self.dtype)
        da = _multiplied(dy, self.b, False, not self.transposed)
        db = _multiplied(dy, self.a, True, False) if self.transposed else _multiplied(self.a, dy, True, False)
        return da.float32(), db.float32(), None, None


def _multiplied(a, b, transpose_a: bool, transpose_b: bool):
    """The product of two Vars of one half type, of that type, summed in float32."""
    if jt.flags.use_cuda:
        operators = jt.compile_extern.cublas_ops
        multiply = operators.cublas_matmul if a.ndim == 2 else operators.cublas_batched_matmul
        return multiply(a, b, transpose_a, transpose_b)
    full_a, full_b = a.float32(), b.float32()
    full_a = full_a.transpose(-1, -2) if transpose_a else full_a
    full_b = full_b.transpose(-1, -2) if transpose_b else full_b
    return _rounded(jt.matmul(full_a, full_b), a.dtype)


def _rounded(x, dtype: str):
    """x in a type of floats, rounded to the nearest, ties to even."""
    if x.dtype == dtype:
        return x
    if dtype == "bfloat16" and not jt.flags.use_cuda:
        return _rounded_to_bfloat16(x)
    return x.cast(dtype)


def _rounded_to_bfloat16(x):
    """What CUDA's conversion gives; Jittor's own on the CPU cuts the lower half of the bits off."""
    call = "round_to_halves(in0_p, in0->num, (Bf16*)out0_p);"
    return jt.code(x.shape, "bfloat16", [x], cpu_header=header(("bfloat16",)), cpu_src=call)
