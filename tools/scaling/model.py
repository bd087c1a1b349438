"""What a sum over processes costs, on paper.

A message of n bytes takes α + nβ seconds: the link's latency, and a byte's time on it. Open MPI sums short arrays by
recursive doubling, ⌈log₂ p⌉ messages in a row of all n bytes, and long ones in a ring, 2 (p − 1) messages in a row of
n / p bytes (Thakur, Rabenseifner, Gropp 2005, "Optimization of Collective Communication Operations in MPICH").
Rabenseifner's algorithm, which it may take instead of the ring, moves as many bytes in fewer messages.
"""

import math
from dataclasses import dataclass

SHORT = 10_000  # bytes up to which Open MPI doubles recursively: its coll_tuned_decision_fixed.c
EFFICIENT = 0.8  # the share of an update's time that must be computing


@dataclass(frozen=True)
class Link:
    """What two processes talk over: seconds until a message's first byte is there, and bytes in a second each way."""

    name: str
    latency: float
    bandwidth: float


# as their makers and their standards name them, with what is usual for a message's latency: not measured here
LINKS = (Link("10 GbE", 30e-6, 1.25e9), Link("100 GbE", 10e-6, 12.5e9), Link("NVLink-class", 3e-6, 450e9))


@dataclass(frozen=True)
class Adapter:
    """LoRA of rank 8 on all four projections of every block (`train.py`'s default), of a GPT-2 of this size."""

    name: str
    width: int
    blocks: int
    model_parameters: int
    rank: int = 8

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """A [r, in] and B [out, r] of each projection."""
        width, sides = self.width, ((1, 3), (1, 1), (1, 4), (4, 1))  # c_attn, c_proj, c_fc, c_proj
        block = [shape for i, o in sides for shape in ((self.rank, i * width), (o * width, self.rank))]
        return block * self.blocks

    @property
    def parameters(self) -> int:
        """How many are trained: 16 r times the width, in each block."""
        return sum(rows * columns for rows, columns in self.shapes)

    @property
    def bytes_summed(self) -> int:
        """In an update: a float32 of each gradient, the loss, and the norm, which is taken from the first process."""
        return 4 * (self.parameters + 2)


ADAPTERS = (
    Adapter("nano", 256, 4, 5_387_776),
    Adapter("gpt2", 768, 12, 124_439_808),
    Adapter("gpt2-medium", 1024, 24, 354_823_168),
    Adapter("gpt2-xl", 1600, 48, 1_557_611_200),
)


def sum_seconds(size: int, processes: int, link: Link) -> float:
    """How long `processes` take to sum an array of `size` bytes."""
    if size < SHORT:
        return math.ceil(math.log2(processes)) * (link.latency + size / link.bandwidth)
    return 2 * (processes - 1) * (link.latency + size / processes / link.bandwidth)


def link_seconds(adapter: Adapter, processes: int, link: Link) -> float:
    """What the messages of an update take: the gradients with the loss, then the norm."""
    return sum_seconds(adapter.bytes_summed - 4, processes, link) + sum_seconds(4, processes, link)


def efficiency(computing: float, waiting: float) -> float:
    """The share of the time that computes."""
    return computing / (computing + waiting)


def least_tokens(waiting: float, seconds_per_token: float) -> int:
    """How many tokens each process must have in an update, so that EFFICIENT of its time computes."""
    return math.ceil(round(waiting * EFFICIENT / (1 - EFFICIENT) / seconds_per_token, 6))


def fitted(measured: dict[int, float], processes: int) -> Link:
    """The link on which sums of these sizes in bytes would take the seconds that were measured: least squares.

    Of sizes that go in a ring, two or more, weighted by their size: relative errors count.
    """
    import numpy as np

    sizes = np.array([size for size in measured if size >= SHORT], float)
    seconds = np.array([measured[int(size)] for size in sizes])
    messages = 2 * (processes - 1)
    columns = np.stack([np.full(len(sizes), messages), messages * sizes / processes], axis=1)
    weights = 1 / seconds
    (latency, per_byte), *_ = np.linalg.lstsq(columns * weights[:, None], seconds * weights, rcond=None)
    return Link("measured", max(latency, 0.0), 1 / per_byte)
