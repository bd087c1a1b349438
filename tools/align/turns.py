"""What both sides are given, and how they take turns, written once: they can differ in what they compute alone.

numpy and the standard library alone: PyTorch's side is a script that does not see this project's packages.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

IGNORED = -100  # the label of a token that is not scored, as in PyTorch


class Rows(NamedTuple):
    """A batch, padded on the right: `input_ids`, `labels` and `attention_mask`, int32 [batch, time].

    For classification `labels` are the classes, [batch].
    """

    input_ids: np.ndarray
    labels: np.ndarray
    attention_mask: np.ndarray

    @property
    def tokens(self) -> int:
        """Real tokens: pads are none."""
        return int(self.attention_mask.sum())

    @property
    def scored(self) -> int:
        """What enters the loss: tokens after the model's shift, or classes."""
        return len(self.labels) if self.labels.ndim == 1 else int((self.labels[:, 1:] != IGNORED).sum())


class Prompt(NamedTuple):
    """What is answered at the end: `input_ids`, int32 [time], and how many tokens the answer may have."""

    input_ids: np.ndarray
    max_new_tokens: int


def write_data(
    path: Path, updates: Iterable[Sequence[Rows]], validation: Sequence[Rows], prompts: Sequence[Prompt]
) -> None:
    """Writes what `Data` reads: the micro-batches of each update, the batches of a validation, the prompts."""
    lists = {f"update{step}": batches for step, batches in enumerate(updates, start=1)}
    arrays: dict[str, np.ndarray] = {}
    for name, several in (lists | {"validation": validation, "prompts": prompts}).items():
        arrays[name] = np.array(len(several))
        for number, values in enumerate(several):
            arrays |= {f"{name}.{number}.{field}": np.asarray(value) for field, value in values._asdict().items()}
    np.savez(path, **arrays)


class Data:
    """The file of `write_data`, of which nothing is read before it is asked for."""

    def __init__(self, path: str | Path):
        self._arrays = np.load(path)

    def update(self, step: int) -> list[Rows]:
        """The micro-batches of an update; the first is 1."""
        return [Rows(*values) for values in self._several(f"update{step}", Rows._fields)]

    @property
    def validation(self) -> list[Rows]:
        """The batches of a validation."""
        return [Rows(*values) for values in self._several("validation", Rows._fields)]

    @property
    def prompts(self) -> list[Prompt]:
        """What is answered at the end."""
        several = self._several("prompts", Prompt._fields)
        return [Prompt(input_ids, int(most)) for input_ids, most in several]

    def _several(self, name: str, fields: Sequence[str]) -> list[list[np.ndarray]]:
        count = int(self._arrays[name])
        return [[self._arrays[f"{name}.{number}.{field}"] for field in fields] for number in range(count)]


class Side(Protocol):
    """A model with its adapter and its optimiser. Each method returns when its work is done, on a device as well."""

    def update(self, step: int, batches: list[Rows]) -> tuple[float, float, float]:
        """Makes update `step`, from 1: its mean loss in nats, the gradients' norm before clipping, its rate."""

    def validate(self, batches: list[Rows]) -> float:
        """The mean loss over all that the batches score, without dropout."""

    def reply(self, prompt: Prompt) -> list[int]:
        """The greedy continuation, without the end token that closes it."""


class Turns:
    """A side's work, a turn at a time, as `benchmarks/worker.py` asks for it; each turn gives a record.

    Turn 0 validates. Turn n makes update n, validates where that is due, and after the last one answers the prompts.
    """

    def __init__(self, side: Side, settings: dict[str, Any]):
        self.side, self.data, self.turn = side, Data(settings["data"]), 0
        self.steps, self.eval_every = settings["steps"], settings["eval_every"]

    def first(self) -> None:
        """Nothing is done before the first turn: updates count from there."""

    def __call__(self) -> dict[str, Any]:
        """The next turn's record: what the update was, how long it took, and what else was made."""
        step, record = self.turn, {}
        self.turn += 1
        if step:
            batches = self.data.update(step)
            begun = time.perf_counter()
            loss, norm, rate = self.side.update(step, batches)
            record |= {"update_seconds": time.perf_counter() - begun, "loss": loss, "grad_norm": norm}
            record |= {"learning_rate": rate, "tokens": sum(rows.tokens for rows in batches)}
        if step % self.eval_every == 0 or step == self.steps:
            record["validation"] = self.side.validate(self.data.validation)
        if step == self.steps:
            record["replies"] = [list(map(int, self.side.reply(prompt))) for prompt in self.data.prompts]
        return record
