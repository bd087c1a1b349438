"""Sums over the processes that `mpirun` started (`common.processes`), through Jittor's own MPI module.

They go over the host, all of them in one message. On GPUs Jittor hands the same operator to NCCL where it was built
with it; that has not been tried by this project.
"""

import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from common import processes
from common.errors import ParameterError, UserError
from datasets.batches import Batch, shard_batch
from gpt2_jittor.runtime.backend import jt


def own_shards(batches: Sequence[Batch]) -> list[Batch]:
    """This process's rows of each batch; of a batch with too few rows for it, nothing."""
    shards = (shard_batch(batch, processes.rank(), processes.count()) for batch in batches)
    return [shard for shard in shards if shard is not None]


def summed(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each array summed over all processes, which must call this together: the same bits in each of them.

    All float32, or all float64; shaped alike everywhere.
    """
    if processes.count() == 1:
        return list(arrays)
    flat = np.concatenate([array.ravel() for array in arrays])
    with jt.flag_scope(auto_convert_64_to_32=0):
        total = jt.array(flat).mpi_all_reduce("add").numpy()
    ends = np.cumsum([array.size for array in arrays])
    return [piece.reshape(array.shape) for piece, array in zip(np.split(total, ends[:-1]), arrays, strict=True)]


def summed_vars(values: Sequence) -> list:
    """`summed`, of float32 Vars."""
    if processes.count() == 1:
        return list(values)
    jt.sync(list(values))  # at once: they share most of what leads to them
    return [jt.array(total).stop_grad() for total in summed([value.numpy() for value in values])]


def take_from_first(values: Sequence) -> None:
    """Makes `values`, float32 Vars, in every process what they are in the first. All must call this together."""
    if processes.count() == 1:
        return
    for value in values:
        firsts = value.numpy() if processes.is_first() else np.zeros(value.shape, np.float32)
        value.assign(summed([firsts])[0])


def check_same_run(fingerprint: dict[str, Any]) -> None:
    """Raises UserError where the processes were given different data, or differ in anything else of `fingerprint`."""
    if not _is_alike(zlib.crc32(json.dumps(fingerprint).encode())):
        raise UserError(
            "the processes do not have the same data, base model, threads and code: give all of them the same"
        )


def check_same_values(values: Sequence, step: int) -> None:
    """Raises UserError where the processes do not hold the same `values` after a step, to the bit."""
    if processes.count() == 1:
        return
    own = 0
    for value in values:
        own = zlib.crc32(value.numpy(), own)
    if not _is_alike(own):
        raise ParameterError(
            "after step {step} the processes do not hold the same parameters: use machines of one kind, and go on "
            "from the newest checkpoint with {resume}",
            step=step,
        )


def _is_alike(own: int) -> bool:
    """Whether a 32-bit number is the same in all processes. Where it is not, one of them at least says so."""
    (total,) = summed([np.array([own], np.float64)])  # exact, as far as 2⁵³
    return total[0] == own * processes.count()
