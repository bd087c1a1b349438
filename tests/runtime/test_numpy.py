"""Arrays between numpy, 1 or 2, and Jittor: what `runtime/headers/pyjt/numpy.h` is for."""

import numpy as np
import pytest

from gpt2_jittor.runtime.backend import jt

TYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (2, 3, 4, 5)])
def test_arrays_go_there_and_come_back(rng, dtype, shape):
    array = np.asarray(rng.standard_normal(shape) * 50).astype(dtype)
    back = jt.array(array).numpy()
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back.reshape(shape), array)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_views_are_copied_as_they_are_seen(rng, dtype):
    array = (rng.standard_normal((6, 8, 4)) * 50).astype(dtype)
    for view in (array.T, array[::2, ::-1], array[:, 3], np.broadcast_to(array[0], (3, 8, 4))):
        np.testing.assert_array_equal(jt.array(view).numpy(), view)


def test_numpys_numbers_index_and_compute(rng):
    array = rng.standard_normal((5, 6)).astype("float32")
    x = jt.array(array)
    for number in (np.int32(3), np.int64(-2), np.uint8(1)):
        np.testing.assert_array_equal(x[number].numpy(), array[number])
    np.testing.assert_array_equal(x[:, np.int64(4)].numpy(), array[:, 4])
    np.testing.assert_allclose((x * np.float32(2.5)).numpy(), array * np.float32(2.5), rtol=1e-6)
    np.testing.assert_array_equal(x[np.int64(1) : np.int32(4)].numpy(), array[1:4])


def test_results_are_arrays_that_own_their_numbers(rng):
    array = rng.standard_normal((50, 40)).astype("float32")
    found = jt.array(array).numpy()
    jt.gc()
    np.testing.assert_array_equal(found, array)
    assert found.nbytes == array.nbytes and found.flags.c_contiguous
