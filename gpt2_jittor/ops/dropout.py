"""Dropout from a counter-based generator: a mask is a function of (seed, index) and never stored.

Each call draws a seed from a `Seeds`, so a step's masks depend on the run's seed, the step, the process and the order
of the calls alone: a resumed run draws what the undisturbed run would have drawn, on every device the same.
"""

import contextlib
from collections.abc import Iterator

import numpy as np

from gpt2_jittor.ops import fused
from gpt2_jittor.ops.proof import Comparison
from gpt2_jittor.runtime.backend import jt


class Seeds:
    """A stream of 32-bit seeds, restarted for each step."""

    def __init__(self):
        self.restart(0, 0)

    def restart(self, seed: int, step: int, rank: int = 0) -> None:
        """Begins the stream that belongs to this step of a run with this seed, in process `rank` of several."""
        self._generator = np.random.Generator(np.random.PCG64([seed, step, rank]))

    def next(self) -> int:
        """The next seed, 0 … 2³² − 1. Each call moves the stream on, so the number of calls matters."""
        return int(self._generator.integers(2**32))

    def state(self) -> dict:
        """Where the stream is."""
        return self._generator.bit_generator.state

    @contextlib.contextmanager
    def rewound(self, state: dict) -> Iterator[None]:
        """Within, the stream is where it was; then it goes on as if nothing had been drawn."""
        now, self._generator.bit_generator.state = self.state(), state
        try:
            yield
        finally:
            self._generator.bit_generator.state = now


seeds = Seeds()


def dropout(x, p: float):
    """Zeroes each element with probability p and divides the rest by 1 − p. Any shape, float32."""
    if p == 0:
        return x
    seed = seeds.next()
    return _Dropout.apply(x, p, seed) if fused.enabled("dropout") else composed(x, p, seed)


def add_dropped(x, y, p: float):
    """x + dropout(y): what a block adds to the residual stream. Same shapes, float32."""
    if p == 0:
        return x + y
    seed = seeds.next()
    return _AddDropped.apply(x, y, p, seed) if fused.enabled("dropout") else x + composed(y, p, seed)


def composed(x, p: float, seed: int):
    """`dropout` in plain Jittor, with a given seed: the same mask as the kernel's."""
    return x * scaled_mask(x.shape, p, seed)


def proofs(rng: np.random.Generator):
    """Both forms, of a number of elements that is no multiple of four: the masks are the same to the bit."""
    p, seed = 0.3, int(rng.integers(2**32))
    x, y = rng.standard_normal((2, 1003))
    yield Comparison("dropout", lambda x: _Dropout.apply(x, p, seed), lambda x: composed(x, p, seed), [x])
    yield Comparison(
        "x + dropout(y)",
        lambda x, y: _AddDropped.apply(x, y, p, seed),
        lambda x, y: x + composed(y, p, seed),
        [x, y],
    )


def threshold(p: float) -> int:
    """The 32-bit number that a draw must reach for its element to be kept."""
    return min(int(p * 2**32), 2**32 - 1)


def scaled_mask(shape, p: float, seed: int):
    """0 or 1 / (1 − p) for each element, by its flat index: `kernels/random.h`, in Jittor's operators."""
    count = int(np.prod(shape))
    index = jt.arange(max(count, 2), dtype="uint32")  # of a single uint32, Jittor computes something else
    h = _u32(seed) ^ (index * _u32(0x9E3779B1))
    h = (h ^ (h >> _u32(16))) * _u32(0x85EBCA6B)
    h = (h ^ (h >> _u32(13))) * _u32(0xC2B2AE35)
    h = h ^ (h >> _u32(16))
    kept = (h >= _u32(threshold(p))).float32() / (1 - p)
    return (kept if count > 1 else kept[:count]).reshape(shape).stop_grad()


def _u32(value: int):
    return jt.array(np.array([value], dtype=np.uint32))


class _Dropout(jt.Function):
    def execute(self, x, p, seed):
        """x float32 → the same shape. Neither x nor the mask is kept: the seed is enough."""
        self.p, self.seed = p, seed
        return _run("dropout(in0_p, out0_p", [x], p, seed)

    def grad(self, dy):
        """The gradient by x: dy under the same mask."""
        return _run("dropout(in0_p, out0_p", [dy], self.p, self.seed), None, None


class _AddDropped(jt.Function):
    def execute(self, x, y, p, seed):
        """x and y float32, of one shape → x + dropout(y)."""
        self.p, self.seed = p, seed
        return _run("add_dropped(in0_p, in1_p, out0_p", [x, y], p, seed)

    def grad(self, dz):
        """The gradients by x, which is dz itself, and by y."""
        return dz, _run("dropout(in0_p, out0_p", [dz], self.p, self.seed), None, None


def _run(call: str, inputs, p: float, seed: int):
    (y,) = fused.run(
        ["random", "dropout"],
        call + ", in0->num, (uint32_t)seed, (uint32_t)threshold, 1 / (1 - p));",
        [inputs[0].shape],
        inputs,
        p=p,
        seed=seed,
        threshold=threshold(p),
    )
    return y
