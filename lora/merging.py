"""An adapter and its base as one folder for transformers: merged weights, configuration, tokenizer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import ParameterError, UserError
from gpt2_jittor.checkpoint.stored import SCORE
from gpt2_jittor.checkpoint.tokenizer import save_tokenizer
from lora.keys import PREFIX
from lora.source import ModelSource, find


def plan(
    adapter: str | Path,
    model: str | None = None,
    labels: Sequence[str] | None = None,
    ignore_base: bool = False,
    trained_labels: Mapping[str, Sequence[str]] | None = None,
) -> ModelSource:
    """What is merged with what, without Jittor: `find`, and the names of a classifier's classes.

    Those are `labels`, else what its run's arguments say or `trained_labels` has under its task, else the base's own,
    else LABEL_0 ….
    Raises UserError for what is missing or does not fit.
    """
    source = find(model, adapter, ignore_base)
    source.ends()  # what is wrong with them is raised now
    if not source.adapter.is_classifier:
        if labels is not None:
            raise ParameterError("{labels}: {0} is a language model's adapter, which has no classes", source.folder)
        if source.base.classifies:
            raise UserError(f"{source.folder} is a language model's adapter, and {source.directory} a classifier")
        return source
    trained = source.arguments.get("labels") or (trained_labels or {}).get(source.task, ())
    return source.with_labels(_labels(source, labels, trained))


def write(source: ModelSource, output: str | Path, dtype: str = "float32") -> None:
    """Merges what was planned, and writes the folder. Raises UserError where a tensor does not fit."""
    from lora.load import load

    load(source).save_pretrained(output, dtype)
    save_tokenizer(source.tokenizer, output)


def _labels(source: ModelSource, given: Sequence[str] | None, trained: Sequence[str]) -> Sequence[str] | None:
    """None where the base's own names stand."""
    score = source.adapter.tensors.get(PREFIX + SCORE)
    if score is None:
        raise UserError(f"{source.folder}: a classifier's adapter must hold its head, {PREFIX}{SCORE}")
    if given is not None:
        if len(given) != len(score) or len(set(given)) < len(given) or not all(given):
            raise ParameterError(
                "{labels} must name the {0} classes of {1}, each once, not {2}",
                *(len(score), source.folder, ",".join(given)),
            )
        return given
    if len(trained) == len(score):
        return trained
    return None if SCORE in source.base.tensors else [f"LABEL_{index}" for index in range(len(score))]


def check_empty(output: Path) -> None:
    """Raises UserError where a result's folder would be written among other files."""
    if output.is_dir() and any(output.iterdir()):
        raise ParameterError("{0} is not empty; choose another {output}", output)
    if output.exists() and not output.is_dir():
        raise ParameterError("{0} is a file; choose another {output}", output)
