"""Which precisions a model can compute in, and where: to be asked before Jittor is imported.

What a precision does stands in `ops/matmul.py`.
"""

from common.errors import ParameterError
from gpt2_jittor.runtime import cuda, runtime
from gpt2_jittor.runtime.cuda.driver import dotted

PRECISIONS = ("fp32", "fp16", "bf16")
WEIGHTS = ("fp32", "bf16", "int8")  # in which weights can be kept for use on the CPU: `ops/narrow.py`
OLDEST_TOOLKIT = (11, 0)  # with an older one Jittor asks cuBLAS for sums in float16, of factors of another type
OLDEST_FOR_BF16 = (8, 0)  # Ampere


def check_precision(precision: str, device: str) -> None:
    """Raises UserError where `precision` cannot be had on `device`: "cpu", "cuda", or "auto", which is not known yet.

    A half type on the CPU would cost time and gain nothing: its kernels, fused or oneDNN's, are float32.
    """
    if precision == "fp32" or device == "auto":
        return
    if device == "cpu":
        raise ParameterError("{precision} {value} is for CUDA: the CPU computes in {precision} fp32", value=precision)
    found = cuda.find(runtime.find_compiler())
    release = found.toolkit.release
    if release < OLDEST_TOOLKIT:
        raise ParameterError(
            "{precision} {value} needs CUDA 11 to 13, not {release}: see docs/cuda.md",
            value=precision,
            release=dotted(release),
        )
    for device in found.driver.devices[:1]:  # the one that Jittor runs on
        if precision == "bf16" and device.capability < OLDEST_FOR_BF16:
            raise ParameterError(
                "{precision} bf16 needs a GPU of compute capability 8.0: use fp16 on this {gpu}", gpu=device
            )
