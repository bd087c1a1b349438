"""Which precisions a model can compute in, and where: to be asked before Jittor is imported.

What a precision does is told in `ops/precision.py`.
"""

import contextlib
import ctypes

from common.errors import UserError
from gpt2_jittor import runtime

PRECISIONS = ("fp32", "fp16", "bf16")
OLDEST_TOOLKIT = (11, 0)  # with an older one Jittor asks cuBLAS for sums in float16, of factors of another type
OLDEST_FOR_BF16 = (8, 0)  # Ampere
CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


def check_precision(precision: str, device: str) -> None:
    """Raises UserError where `precision` cannot be had on `device`: "cpu", "cuda", or "auto", which is not known yet.

    A half type on the CPU would cost time and gain nothing: its kernels, fused or oneDNN's, are float32.
    """
    if precision == "fp32" or device == "auto":
        return
    if device == "cpu":
        raise UserError(f"--precision {precision} is for CUDA: the CPU computes in --precision fp32")
    toolkit, capability = runtime.find_cuda().toolkit, compute_capability()
    if toolkit < OLDEST_TOOLKIT:
        found = runtime.dotted(toolkit)
        raise UserError(f"--precision {precision} needs CUDA 11 or 12, not {found}: install it, or leave this out")
    if precision == "bf16" and capability is not None and capability < OLDEST_FOR_BF16:
        found = runtime.dotted(capability)
        raise UserError(f"--precision bf16 needs a GPU of compute capability 8.0, this one has {found}: use fp16")


def compute_capability() -> tuple[int, int] | None:
    """What the driver says of the first device that it shows; None where it cannot be asked."""
    device, parts = ctypes.c_int(0), (ctypes.c_int(0), ctypes.c_int(0))
    with contextlib.suppress(OSError, AttributeError):
        cuda = ctypes.CDLL("libcuda.so.1")
        answers = [cuda.cuInit(0), cuda.cuDeviceGet(ctypes.byref(device), 0)]
        for part, attribute in zip(parts, CAPABILITY, strict=True):
            answers.append(cuda.cuDeviceGetAttribute(ctypes.byref(part), attribute, device))
        if not any(answers):
            return parts[0].value, parts[1].value
    return None
