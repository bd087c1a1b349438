"""What several processes check of each other. Sums are played here; `tests/faults/test_mpi.py` has real ones."""

import numpy as np
import pytest
from updates import adapted, draw

from common import processes
from common.errors import UserError
from gpt2_jittor.runtime.backend import jt
from training import distributed
from training.step import loss_and_gradients


@pytest.fixture
def other(monkeypatch):
    """What the second of two processes brings to the next sum; None: the same as this one."""
    brought = {"number": None}

    def summed(arrays):
        return [array + (array if brought["number"] is None else brought["number"]) for array in arrays]

    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(distributed, "summed", summed)
    return brought


def test_a_process_alone_has_nothing_to_add_or_to_compare(rng):
    arrays = [rng.standard_normal((2, 3)), rng.standard_normal(4)]
    for found, expected in zip(distributed.summed(arrays), arrays, strict=True):
        np.testing.assert_array_equal(found, expected)
    distributed.check_same_run({"data": "1"})
    distributed.check_same_values([jt.array(array) for array in arrays], 7)


@pytest.mark.parametrize("number", [0, 1, 2**32 - 1])
def test_processes_with_other_data_or_other_parameters_are_told(other, number):
    values = [jt.array(np.arange(5, dtype=np.float32)), jt.array(np.ones((2, 2), np.float32))]
    distributed.check_same_run({"data": "1"})
    distributed.check_same_values(values, 7)
    other["number"] = number
    with pytest.raises(UserError, match="same data"):
        distributed.check_same_run({"data": "1"})
    with pytest.raises(UserError, match="after step 7 "):
        distributed.check_same_values(values, 7)


def test_a_single_bit_in_the_last_parameter_is_seen(other, monkeypatch):
    seen = []
    monkeypatch.setattr(distributed, "_is_alike", lambda own: seen.append(own) or True)
    for last in (1.0, np.nextafter(np.float32(1), np.float32(2))):
        distributed.check_same_values([jt.array(np.zeros(3, np.float32)), jt.array(np.array([last], np.float32))], 1)
    assert seen[0] != seen[1]


def test_every_process_takes_the_firsts_values(rng, monkeypatch):
    firsts = [rng.standard_normal((3, 2)).astype(np.float32), rng.standard_normal(5).astype(np.float32)]
    monkeypatch.setattr(processes, "count", lambda: 2)
    for rank in (0, 1):
        others = iter([np.zeros_like(array) if rank == 0 else array for array in firsts])
        monkeypatch.setattr(processes, "is_first", lambda rank=rank: rank == 0)
        monkeypatch.setattr(distributed, "summed", lambda arrays, others=others: [arrays[0] + next(others)])
        values = [jt.array(array if rank == 0 else -7 * array) for array in firsts]
        distributed.take_from_first(values)
        for value, first in zip(values, firsts, strict=True):
            np.testing.assert_array_equal(value.numpy(), first)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_parts_of_several_processes_add_up_to_the_whole(rng, monkeypatch, count):
    model, parameters = adapted()
    batches = [draw(rng, 4, 20, 3), draw(rng, 2, 20, 15)]  # with five processes, the last one has nothing
    batches[0].attention_mask[1:, 12:] = batches[0].input_ids[1:, 12:] = 0
    batches[0].labels[1:, 5:12], batches[0].labels[1:, 12:] = 7, -100
    scored = sum(int((batch.labels[:, 1:] != -100).sum()) for batch in batches)
    monkeypatch.setattr(processes, "count", lambda: count)
    parts = []
    for rank in range(count):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        loss, gradients = loss_and_gradients(model, distributed.own_shards(batches), parameters, scored)
        parts.append([loss.item(), *(gradient.numpy() for gradient in gradients)])
    loss, gradients = loss_and_gradients(model, batches, parameters, scored)
    np.testing.assert_allclose(sum(part[0] for part in parts), loss.item(), rtol=1e-5)
    for index, right in enumerate(gradients, start=1):
        error = np.linalg.norm(sum(part[index] for part in parts) - right.numpy()) / np.linalg.norm(right.numpy())
        assert error < 1e-4  # float32 sums of some hundred terms, in another order
