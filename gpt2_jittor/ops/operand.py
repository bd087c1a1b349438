"""A weight as a kernel's call is given it, whatever it is kept in, and whatever it is multiplied in."""

from dataclasses import dataclass, field
from typing import Any

from gpt2_jittor.ops import fused
from gpt2_jittor.ops.frozen import KERNELS, FrozenWeight

HALF_KERNELS = ("bfloat16", "sgemm", "projection", "half_products")


def has_kernel(kernel: str, weight) -> bool:
    """Whether a kernel makes the product with this weight here. CUDA's know none that is a `FrozenWeight`."""
    return fused.products_on_cpu() or (not isinstance(weight, FrozenWeight) and fused.products_on_cuda(kernel))


@dataclass(frozen=True)
class Operand:
    """A weight, a Var or a `FrozenWeight`, among the inputs of a kernel's call, in whose text `cpp` stands for it.

    `first` is the input with its number; `more` come behind all others, `kernels` and `numbers` with the call's own.
    """

    cpp: str
    first: Any
    more: tuple = ()
    kernels: tuple[str, ...] = ("sgemm", "projection")
    numbers: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, weight, number: int, count: int, precision: str) -> "Operand":
        """The weight as the input of that number, where the call has `count` inputs without its scales.

        precision: "bf16" where a Var's products are made in bfloat16; it is float32, or bfloat16 already.
        """
        if isinstance(weight, FrozenWeight):
            first, *more = weight.parts
            return cls(weight.cpp(number, count), first, tuple(more), KERNELS, weight.numbers)
        if precision == "fp32":
            return cls(f"in{number}_p", weight)
        kept_in = "Bf16" if weight.dtype == "bfloat16" else "float"
        return cls(f"Halves<{kept_in}>{{(const {kept_in}*)in{number}_p}}", weight, kernels=HALF_KERNELS)


NO_WEIGHT = Operand("", None)  # of a call that multiplies by none
