"""A weight as a kernel's call is given it, whatever it is kept in."""

from dataclasses import dataclass, field
from typing import Any

from gpt2_jittor.ops import fused
from gpt2_jittor.ops.frozen import KERNELS, FrozenWeight


def has_kernel(kernel: str, weight) -> bool:
    """Whether a kernel makes the product with this weight here. CUDA's know none that is a `FrozenWeight`."""
    return fused.products() or (not isinstance(weight, FrozenWeight) and fused.products_on_cuda(kernel))


@dataclass(frozen=True)
class Operand:
    """A weight, float32 or a `FrozenWeight`, among the inputs of a kernel's call, in whose text `cpp` stands for it.

    `first` is the input with its number; `more` come behind all others, `kernels` and `numbers` with the call's own.
    """

    cpp: str
    first: Any
    more: tuple = ()
    kernels: tuple[str, ...] = ("sgemm", "projection")
    numbers: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, weight, number: int, count: int) -> "Operand":
        """The weight as the input of that number, where the call has `count` inputs without its scales."""
        if not isinstance(weight, FrozenWeight):
            return cls(f"in{number}_p", weight)
        first, *more = weight.parts
        return cls(weight.cpp(number, count), first, tuple(more), KERNELS, weight.numbers)


NO_WEIGHT = Operand("", None)  # of a call that multiplies by none
