"""Keys and values of a text that joins others, written into the arrays that hold theirs.

Those arrays are large and live on: on the CPU the kernel writes into them in place, for all layers in one operator.
Elsewhere each is made anew.
"""

from collections.abc import Sequence

import numpy as np

from gpt2_jittor.ops import fused
from gpt2_jittor.runtime.backend import jt

_KERNELS = ("cache_rows",)


def put_rows(arrays: Sequence, rows: Sequence, places: np.ndarray) -> list:
    """The arrays, [slots, capacity, width] each, with `rows`, [count, width] of each, at `places`, int [count].

    A place is slot · capacity + position. What the arrays held there is lost, in those that were given, too.
    """
    places = places.astype(np.int32)
    if not fused.enabled_on_cpu():
        return [_with(array, values, places) for array, values in zip(arrays, rows, strict=True)]
    count = len(arrays)
    calls = [
        f"cache_rows(in{count + i}_p, in{2 * count}_p, in{2 * count}_shape0, in{i}_shape2, in{i}_p);"
        for i in range(count)
    ]
    (done,) = fused.run(_KERNELS, "\n".join([*calls, "out0_p[0] = 0;"]), [[1]], [*arrays, *rows, jt.array(places)])
    done.sync()  # written, before anybody reads them again
    return list(arrays)


def _with(array, values, places: np.ndarray):
    flat = array.reshape(-1, array.shape[-1])
    flat[jt.array(places)] = values.cast(flat.dtype)
    return flat.reshape(array.shape)
