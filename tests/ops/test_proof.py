"""What the CUDA kernels must prove of themselves: right ones do, on the emulated device, and broken ones do not."""

import importlib
from unittest import mock

import cuda_kernels
import numpy as np
import pytest

from gpt2_jittor.ops import fused, proof, prove
from gpt2_jittor.ops.proof import Comparison

OTHER_NAMES = {"sum_of_two": "cross_entropy"}  # kernels that are proved with another
BROKEN = {  # kernel: what is written in place of what, wrongly
    "layer_norm": [
        (
            "for (long c = lane * N; c < width; c += WARP * N) {",
            "for (long c = lane * N; c < width - 1; c += WARP * N) {",
        ),
        ("- (p.v[k] - m) * s * sum_gx)", ")"),
        ("r < end; r += STRIP_ROWS", "r < end - 1; r += STRIP_ROWS"),
    ],
    "gelu_new": [("x * (e / (e + 1.0f))", "x * (e / (e - e))"), ("3.0f * 0.044715f", "2.0f * 0.044715f")],
    "dropout": [("if (rest < n)", "if (rest < n - 1)"), ("(seed, (uint32_t)i,", "(seed, (uint32_t)i + 1,")],
    "attention": [
        ("key <= query + s.past", "key < query + s.past"),
        ("__syncthreads();  // the tile before is done with", ""),
        ("by_score = weight * (by_weight * factor - delta)", "by_score = weight * (by_weight - delta)"),
    ],
    "cross_entropy": [
        ("i + k == target", "i + k + 1 == target"),
        ("for (long i = packed + threadIdx.x; i < n;", "for (long i = packed + threadIdx.x; i < n - 1;"),
    ],
    "sum_of_two": [("return x + y;", "return x;")],
    "projection": [
        ("bias[i % columns]", "bias[0]"),
        ("sgemm('T', 'N', in, out, rows, 1.0f", "sgemm('T', 'N', in, out, rows, 1.01f"),
    ],
    "lora": [
        ("s.scaling, dropped.values, s.in, s.a", "1.0f, dropped.values, s.in, s.a"),
        ("if (s.threshold) dropout(dx", "if (0) dropout(dx"),
    ],
    "adamw": [
        ("sqrtf(v.v[k]) * r.correction", "sqrtf(v.v[k])"),
        ("const long begin = (blockIdx.x - some.first_block[number]) * PIECE", "const long begin = 0 * PIECE"),
    ],
    "decode_step": [
        ("slots[j] < 0 ? HIDDEN_SCORE", "slots[j] < -1 ? HIDDEN_SCORE"),
        ("(slots[j] * s.capacity + s.offset + j)", "(slots[j] * s.capacity + j)"),
    ],
    "choose": [
        ("}) < choice.top_k", "}) <= choice.top_k"),
        ("mass >= choice.min_p", "mass >= 2 * choice.min_p"),
        ("(float)(mass / all) > choice.beyond", "(float)(mass / all) > 0.5f * choice.beyond"),
    ],
}


@pytest.fixture
def on_emulator():
    """CUDA's kernels run on the emulated device, their definitions on the CPU."""
    with cuda_kernels.turned_on():
        yield


def problem_of(kernel: str) -> str:
    return prove.problem_of(OTHER_NAMES.get(kernel, kernel))


@cuda_kernels.NEEDS_EMULATOR
@pytest.mark.parametrize("kernel", prove.OPERATORS)
def test_a_kernel_proves_itself_with_room_to_spare(on_emulator, monkeypatch, kernel):
    monkeypatch.setattr(proof, "TOLERANCE", proof.TOLERANCE / 5)
    assert problem_of(kernel) == ""


@cuda_kernels.NEEDS_EMULATOR
@pytest.mark.parametrize(
    ("kernel", "right", "wrong"),
    [  # one of each kernel's in `make test`
        pytest.param(kernel, *change, marks=[pytest.mark.long] * (change is not changes[0]))
        for kernel, changes in BROKEN.items()
        for change in changes
    ],
    ids=[f"{kernel}{number}" for kernel, changes in BROKEN.items() for number in range(len(changes))],
)
def test_a_broken_kernel_does_not(on_emulator, kernel, right, wrong):
    text = fused.cuda_header(kernel)
    assert right in text
    header = fused.cuda_header
    changed = {kernel: text.replace(right, wrong)}
    with mock.patch.object(fused, "cuda_header", lambda name: changed.get(name) or header(name)):
        found = problem_of(kernel)
    print(found)
    assert "difference of" in found or "NaN" in found


def test_each_kernel_that_may_run_has_its_proofs(rng):
    for kernel, operator in prove.OPERATORS.items():
        assert fused.cuda_header(kernel)
        comparisons = list(importlib.import_module(f"gpt2_jittor.ops.{operator}").proofs(rng))
        assert comparisons and all(isinstance(one, Comparison) for one in comparisons)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x: x * 1.001, "a difference of 1.0e-03 in value 0 of doubled"),
        (lambda x: x + 0 * (x - 1) / (x - x), "NaN or infinite numbers in value 0"),
        (lambda x: x[:-1], "the shape (6,) and not (7,)"),
        (lambda x: x + (x - x.stop_grad()) * 0.1, "in the gradient by input 0 of doubled"),
    ],
)
def test_what_differs_is_named(rng, wrong, words):
    x = rng.uniform(1, 2, 7)
    right = Comparison("itself", lambda x: 2 * x, lambda x: x + x, [x])
    assert proof.problem([right]) == ""
    assert words in proof.problem([right, Comparison("doubled", lambda x: wrong(2 * x), lambda x: x + x, [x])])


def test_two_values_are_both_compared(rng):
    one = Comparison("both", lambda x, y: (x, y), lambda x, y: (x, x), rng.uniform(1, 2, (2, 5)), gradient=False)
    assert "in value 1 of both" in proof.problem([one])


def test_random_inputs_are_float32_whatever_numpy_made(rng):
    one = Comparison("type", lambda x: [x], lambda x: x, [rng.random(3)], gradient=False)
    (value,) = one.results(one.fused)
    assert value.numpy().dtype == np.float32


def test_of_what_jittor_says_the_reason_is_kept():
    error = RuntimeError(
        "[f 1127 executor.cc:9]\nExecute fused operator(1/2) failed.\n\nReason: a fault\n\n*****\nasync"
    )
    assert prove.in_a_line(error) == "a fault"
    assert prove.in_a_line(ValueError()) == "ValueError"
    error = RuntimeError(
        "Error happend during compilation:\n Compile operator(0/5) failed\nReason: status 256 of: nvcc"
    )
    assert prove.in_a_line(error) == "it does not compile"
