"""Which precisions a model can compute in, or keep its base in, and where: to be asked before Jittor is imported.

What a precision does stands in `ops/matmul.py`, of a base's in `ops/frozen.py`.
"""

from common.errors import ParameterError
from gpt2_jittor.runtime import cpu, cuda, runtime
from gpt2_jittor.runtime.cuda.driver import dotted

PRECISIONS = ("fp32", "fp16", "bf16")
WEIGHTS = ("fp32", "bf16", "int8")  # in which weights can be kept for use on the CPU: `ops/narrow.py`
BASES = ("fp32", "bf16", "fp16", "int8")  # what a base that is not trained is kept in
DEFAULT_THRESHOLD = 6.0  # of int8's outliers (Dettmers et al. 2022, section 3.2)
OLDEST_TOOLKIT = (11, 0)  # with an older one Jittor asks cuBLAS for sums in float16, of factors of another type
OLDEST_FOR_BF16 = (8, 0)  # Ampere


def check_precision(precision: str, device: str) -> None:
    """Raises UserError where `precision` cannot be had on `device`: "cpu", "cuda", or "auto", which is not known yet.

    The CPU has bf16 where it has instructions for it; elsewhere a half type would cost time and gain nothing.
    """
    if precision == "fp32" or device == "auto":
        return
    if device != "cpu":
        _check_half_type("precision", precision)
    elif precision != "bf16":
        template = "{precision} {value} is for CUDA: the CPU computes in {precision} fp32, or bf16"
        raise ParameterError(template, value=precision)
    elif not cpu.bf16_instructions():
        raise ParameterError(
            "{precision} bf16 is for CUDA and for processors with AVX512_BF16 or AMX, which this one lacks: give"
            " {precision} fp32"
        )


def check_base(base: str, precision: str, device: str) -> None:
    """Raises UserError where a base cannot be kept in `base` on `device`, as of `check_precision`, or not with products
    in that precision. Each device has int8.
    """
    if base != "fp32" and precision != "fp32":
        template = "{base} {value} goes with {precision} fp32 alone: {precision} {half} keeps the base in {half} itself"
        raise ParameterError(template, value=base, half=precision)
    if base in PRECISIONS and base != "fp32" and device == "cuda":
        _check_half_type("base", base)


def _check_half_type(name: str, value: str) -> None:
    """Raises UserError where CUDA here has no half type of that value, which the parameter `name` asks for."""
    found = cuda.find(runtime.find_compiler())
    release = found.toolkit.release
    if release < OLDEST_TOOLKIT:
        raise ParameterError(
            f"{{{name}}} {{value}} needs CUDA 11 to 13, not {{release}}: see docs/cuda.md",
            value=value,
            release=dotted(release),
        )
    for device in found.driver.devices[:1]:  # the one that Jittor runs on
        if value == "bf16" and device.capability < OLDEST_FOR_BF16:
            template = f"{{{name}}} bf16 needs a GPU of compute capability 8.0: use fp16 on this {{gpu}}"
            raise ParameterError(template, gpu=device)
