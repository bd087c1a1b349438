"""The emulated device by itself: right kernels give the right numbers, and wrong ones are seen to be wrong.

`kernels.cu` holds the kernels; each runs in a process of its own, since an error of a kernel ends the process.
"""

import json
import os
import subprocess

import numpy as np
import pytest

from tests.cuda_emulation import home

pytestmark = pytest.mark.skipif(not home.installed(), reason=f"{home.WHEEL} is not installed: {home.INSTALL}")
ORDERS = ("forwards", "backwards", "scattered")
FAULT = 86  # the exit status that emulationFail gives


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """kernels.cu, compiled as Jittor compiles its kernels."""
    path = tmp_path_factory.mktemp("kernels") / "kernels"
    nvcc = home.build() / "bin" / "nvcc"
    subprocess.run([nvcc, "--use_fast_math", home.HERE / "kernels.cu", "-o", path], check=True)
    return path


@pytest.fixture
def run(program, tmp_path):
    """run(name, x, order=…) → the process's end, and what the kernel wrote."""

    def call(name: str, x: np.ndarray, **environment: str):
        (tmp_path / "in").write_bytes(x.astype(np.float32).tobytes())
        (tmp_path / "out").unlink(missing_ok=True)
        variables = os.environ | environment
        command = [program, name, tmp_path / "in", tmp_path / "out"]
        end = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
        written = tmp_path / "out"
        return end, np.fromfile(written, np.float32) if written.exists() else None

    return call


def result_of(end_and_result, count: int) -> np.ndarray:
    end, result = end_and_result
    assert end.returncode == 0 and not end.stdout, end.stdout + end.stderr
    return result[:count]


@pytest.mark.parametrize("order", ORDERS)
def test_a_reduction_with_shared_memory_and_barriers_gives_the_sums(run, rng, order):
    x = rng.standard_normal(1001)
    sums = result_of(run("block_sum", x, CUDA_EMULATION_ORDER=order), 3)
    blocks = np.arange(1001) // 256 % 3
    expected = [x[blocks == b].sum() for b in range(3)]
    np.testing.assert_allclose(sums, expected, atol=1e-4)  # float32 sums of some hundred terms


# backwards, the threads that are summed happen to come before those that sum them
@pytest.mark.parametrize(
    "flaw, order",
    [("off_by_one", order) for order in ORDERS] + [("missing_barrier", "forwards"), ("missing_barrier", "scattered")],
)
def test_a_flaw_in_that_reduction_gives_other_numbers(run, rng, flaw, order):
    x = rng.uniform(1, 2, 1001)
    sums = result_of(run(flaw, x, CUDA_EMULATION_ORDER=order), 3)
    assert not np.allclose(sums.sum(), x.sum(), atol=0.5)  # each element is above 1


def test_what_one_thread_writes_for_all_needs_a_barrier(run, rng):
    x = rng.standard_normal(20)
    expected = np.repeat(x.astype(np.float32), 64)
    np.testing.assert_array_equal(result_of(run("broadcast", x), 1280), expected)
    assert not np.array_equal(result_of(run("broadcast_without_barrier", x), 1280), expected)


def test_warp_shuffles_reduce_rows(run, rng):
    x = rng.standard_normal((6, 70)) * 3
    expected = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    found = result_of(run("row_softmax", x), x.size).reshape(x.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # __expf loses a digit


def test_shuffling_up_leaves_the_lowest_lanes_alone(run, rng):
    x = rng.standard_normal(32)
    np.testing.assert_allclose(result_of(run("scan", x), 32), np.cumsum(x), atol=1e-5)


def test_votes_count_the_lanes_of_whole_and_partial_warps(run, rng):
    x = rng.integers(-2, 3, 48)
    found = result_of(run("votes", x), 144).reshape(3, 48)
    warps = [slice(0, 32), slice(32, 48)]
    for warp in warps:
        assert set(found[0, warp]) == {(x[warp] > 0).sum()}
        np.testing.assert_array_equal(found[2, warp], [(x[warp] == value).sum() for value in x[warp]])
    assert set(found[1]) == {(x > 0).sum()}


def test_dynamic_shared_memory_holds_as_much_as_the_launch_gave(run, rng):
    x = rng.standard_normal(777)
    np.testing.assert_array_equal(result_of(run("reverse", x), 777), x.astype(np.float32)[::-1])
    end, _ = run("too_little_shared", x)
    assert end.returncode == FAULT and "reverse" in end.stderr, end


def test_atomics_count_in_shared_and_global_memory(run, rng):
    x = rng.integers(0, 7, 500)
    found = result_of(run("histogram", x), 9)
    np.testing.assert_array_equal(found, [*np.bincount(x, minlength=8), x.max()])


def test_blocks_and_grids_have_dimensions(run, rng):
    x = rng.standard_normal((14, 19))
    np.testing.assert_array_equal(result_of(run("transpose", x), x.size).reshape(19, 14), x.astype(np.float32).T)


@pytest.mark.parametrize("kernel", ["twice", "twice_float4"])
def test_templates_and_vectors_work(run, rng, kernel):
    x = rng.standard_normal(1024)
    np.testing.assert_array_equal(result_of(run(kernel, x), 1024), 2 * x.astype(np.float32))


def test_two_byte_floats_round_as_numpys_and_torchs(run, rng):
    import torch

    x = rng.uniform(-2, 2, 100).astype(np.float32)
    found = result_of(run("halves", x), 300).reshape(3, 100)
    h = x.astype(np.float16)
    np.testing.assert_allclose(found[0], (h * h + h).astype(np.float32), atol=2e-3)  # one rounding or two
    b = torch.tensor(x).bfloat16()
    np.testing.assert_array_equal(found[1], (b * b).float().numpy())
    np.testing.assert_allclose(found[2], np.exp(h.astype(np.float32)), rtol=1e-3)  # float16 has 11 bits


@pytest.mark.parametrize(
    "kernel, words",
    [
        ("ends_before_the_barrier", "14 of 64 threads have ended, while the others wait at"),
        ("different_barriers", "threads wait at"),
        ("lanes_that_never_come", "lanes wait for others that never come at"),
        ("outside_of_shared", "index 32 is outside of"),
        ("beyond_an_allocation", "writes_at"),
        ("just_beyond_an_allocation", "16396 bytes after the start of an allocation of 16396"),
        ("misaligned", "is misaligned for"),
        ("memory_of_the_host", "twice: argument 0"),
    ],
)
def test_what_a_device_does_not_forgive_ends_the_process_with_a_line(run, rng, kernel, words):
    end, result = run(kernel, rng.standard_normal(100))
    assert end.returncode == FAULT and result is None
    assert words in end.stderr and end.stderr.count("\n") == 1, end.stderr


def test_the_host_cannot_read_the_devices_memory(run, rng):
    end, _ = run("read_by_the_host", rng.standard_normal(100))
    assert end.returncode < 0  # by a signal


def test_a_launch_that_no_device_could_make_is_an_error_and_does_nothing(run, rng):
    end, result = run("too_many_threads", rng.standard_normal(100))
    assert end.stdout == "error: cudaErrorInvalidConfiguration\n" and not result.any()


def test_the_report_counts_launches_copies_and_waits(run, rng, tmp_path):
    report = tmp_path / "report"
    result_of(run("reverse", rng.standard_normal(100), CUDA_EMULATION_REPORT=str(report)), 1)
    counts = json.loads(report.read_text())
    assert counts["kernels"] == {"reverse": 1} and counts["launches"] == 1 and counts["products"] == 0
    assert (counts["copies_to_device"], counts["bytes_to_device"], counts["fills"]) == (1, 400, 1)
    assert (counts["copies_to_host"], counts["bytes_to_host"], counts["synchronisations"]) == (1, 4 * 4099, 2)
