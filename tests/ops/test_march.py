"""The decoding kernels' products as processors of each kind compile them, beside numpy's."""

import ctypes
import subprocess

import numpy as np
import pytest

from gpt2_jittor.ops.decode_step import PRODUCTS
from gpt2_jittor.ops.int8 import quantize_rows
from gpt2_jittor.ops.narrow import round_rows, to_panels
from gpt2_jittor.ops.sources import header
from gpt2_jittor.runtime import cpu

# each kind of register and of instruction that the kernels tell apart, and a flag of /proc/cpuinfo without which it
# cannot be run
KINDS = {
    "x86-64": "sse2",
    "x86-64-v3": "avx2",
    "x86-64-v4": "avx512bw",
    "x86-64-v4 -mavx512vnni": "avx512_vnni",
}
CALLS = """
extern "C" void plain(const float* w, const float* x, long rows, long inputs, long outputs, float* y) {
    part_of_product({w, inputs, outputs}, x, rows, y, {0, inputs}, {0, outputs});
}
extern "C" void panels(const Bf16* w, const float* x, long rows, long inputs, long outputs, float* y) {
    product(Panels{w, inputs, outputs}, x, rows, y, 0, outputs);
}
extern "C" void table(const float* w, const float* x, long rows, long inputs, long outputs, float* y) {
    transposed_product(w, x, rows, inputs, outputs, y, 0, outputs);
}
extern "C" void half_table(const Bf16* w, float* x, long rows, long inputs, long outputs, float* y) {
    for (long r = 0; r < rows; r++) arrange(w, x + r * inputs, inputs);
    transposed_product(w, x, rows, inputs, outputs, y, 0, outputs);
}
extern "C" void whole(const int8_t* w, const float* scales, const float* x, long rows, long inputs, long outputs,
                      float* y) {
    product(Rows{w, scales, inputs, outputs}, Wholes(x, rows, inputs), rows, y, 0, outputs);
}
"""


@pytest.fixture(scope="module", params=KINDS)
def library(request, tmp_path_factory):
    if KINDS[request.param] not in cpu.read()[1]:
        pytest.skip(f"this processor is not of {request.param}")
    folder = tmp_path_factory.mktemp("march")
    (folder / "products.cpp").write_text(header(("shapes", *PRODUCTS)) + CALLS, encoding="utf-8")
    built = folder / "products.so"
    flags = [
        "-std=c++14",
        "-Wall",
        "-Wno-psabi",
        "-Wno-unused-function",
        "-Werror",
        "-Ofast",
        "-fopenmp",
        "-shared",
        "-fPIC",
        *f"-march={request.param}".split(),
    ]
    subprocess.run(["g++", *flags, folder / "products.cpp", "-o", built], check=True)
    return ctypes.CDLL(str(built))


def called(function, arrays, x: np.ndarray, outputs: int) -> np.ndarray:
    """What a kernel makes of float32 [rows, inputs]."""
    rows, inputs = x.shape
    x, y = x.copy(), np.full((rows, outputs), np.nan, np.float32)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*arrays, x)]
    function(*pointers, *map(ctypes.c_long, (rows, inputs, outputs)), ctypes.c_void_p(y.ctypes.data))
    return y


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (37, 70), (64, 64), (131, 515), (768, 96)])
def test_products_are_numpys(library, rng, rows, inputs, outputs):
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32)
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    (bits,) = round_rows(weight)
    small, scales = quantize_rows(weight)
    halves = (bits.astype(np.uint32) << 16).view(np.float32)
    found = {
        "plain": (called(library.plain, [np.ascontiguousarray(weight.T)], x, outputs), weight),
        "panels": (called(library.panels, [to_panels(bits)], x, outputs), halves),
        "table": (called(library.table, [weight], x, outputs), weight),
        "half_table": (called(library.half_table, [bits], x, outputs), halves),
    }
    for name, (y, meant) in found.items():
        assert (errors(y, x, meant) < bound(x, meant)).all(), name
    y, meant = called(library.whole, [small, scales], x, outputs), small * scales[:, None].astype(np.float64)
    steps = np.abs(x.astype(np.float64)).max(1, keepdims=True) / 32767
    # a number near where rounding changes may go either way
    one = np.minimum(np.abs(x / steps % 1 - 0.5) < 0.01, 1) * steps @ np.abs(meant).T
    assert (errors(y, np.rint(x / steps) * steps, meant) < one + bound(x, meant)).all()


def errors(y, x, meant) -> np.ndarray:
    return np.abs(y - x.astype(np.float64) @ meant.T.astype(np.float64))


def bound(x, meant) -> np.ndarray:
    """Of rounding in float32: a part of the sum of what is added up."""
    return 2e-6 * np.abs(x) @ np.abs(meant).T


def test_sums_of_the_largest_numbers_do_not_overflow(library):
    """Of GPT-2 XL's widest product, 6,400 inputs, and of more."""
    inputs = 20_000
    weight, scales = np.full((5, inputs), 127, np.int8), np.ones(5, np.float32)
    weight[1] = -127
    x = np.ones((2, inputs), np.float32)
    x[1] = -3
    expected = 127.0 * inputs * np.array([[1, -1, 1, 1, 1], [-3, 3, -3, -3, -3]])
    np.testing.assert_allclose(called(library.whole, [weight, scales], x, 5), expected, rtol=1e-6)


def test_a_row_that_is_not_finite_gives_nothing_finite_and_one_of_zeros_zeros(library, rng):
    weight, scales = quantize_rows(rng.standard_normal((7, 40)).astype(np.float32))
    x = rng.standard_normal((4, 40)).astype(np.float32)
    x[0, 3], x[1, 4], x[2] = np.nan, np.inf, 0
    y = called(library.whole, [weight, scales], x, 7)
    assert np.isnan(y[:2]).all() and not y[2].any() and np.isfinite(y[3]).all()
