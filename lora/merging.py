"""An adapter and its base as one folder for transformers: merged weights, configuration, tokenizer.

`plan` finds everything that can be wrong without Jittor; `write` then does it.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from common.errors import ParameterError, UserError
from common.files import read_yaml
from datasets.registry import TASKS
from gpt2_jittor.config import GPT2Config
from gpt2_jittor.generation_config import GenerationConfig, with_end
from gpt2_jittor.hub import locate
from gpt2_jittor.outline import open_model
from gpt2_jittor.tokenizer import check_sizes, load_tokenizer, save_tokenizer
from lora.files import PREFIX, SCORE, Adapter, check_base, read_adapter


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is merged with what. `labels`: None for a language model, and for a base that names its classes."""

    directory: Path
    adapter: Adapter
    base: Path
    config: GPT2Config  # the base's, with the vocabulary and the end token of the adapter's own tokenizer
    generation: GenerationConfig  # the base's, with that end token
    tokenizer: object
    labels: tuple[str, ...] | None


def plan(
    directory: Path, model: str | None = None, labels: Sequence[str] | None = None, ignore_base: bool = False
) -> Plan:
    """Settles base, tokenizer, vocabulary and classes. Raises UserError for what is missing or does not fit.

    With `ignore_base` the base may be another than the adapter was trained on, if its tensors fit.
    """
    adapter = read_adapter(directory)
    base = base_of(directory, adapter, model)
    check_base(directory, adapter, open_model(base), ignore_base)
    config, tokenizer, own = vocabulary_of(directory, adapter, base)
    generation, before = generation_of(directory, base, tokenizer, own)
    generation.ends(tokenizer, config.vocab_size)  # what is wrong with them is told now
    if own:
        end = with_end(config.eos_token_id, tokenizer.eos_token_id, before)
        config = dataclasses.replace(config, eos_token_id=end, pad_token_id=tokenizer.pad_token_id)
    found = Plan(directory, adapter, base, config, generation, tokenizer, None)
    if not adapter.is_classifier:
        if labels is not None:
            raise UserError(f"--labels: {directory} is a language model's adapter, which has no classes")
        return found
    if config.pad_token_id is None:  # with which transformers finds a row's last token
        config = dataclasses.replace(config, pad_token_id=tokenizer.pad_token_id)
    return dataclasses.replace(found, config=config, labels=_labels(found, labels))


def write(plan: Plan, output: Path, dtype: str = "float32") -> None:
    """Merges, and writes the folder. Raises UserError where a tensor does not fit."""
    from gpt2_jittor import GPT2ForSequenceClassification, GPT2LMHeadModel
    from lora import load_adapter, merge

    if plan.adapter.is_classifier:
        model = GPT2ForSequenceClassification.from_pretrained(plan.base, plan.labels)
    else:
        model = GPT2LMHeadModel.from_pretrained(plan.base)
    model.resize_token_embeddings(plan.config.vocab_size)
    load_adapter(model, plan.directory, ignore_base=True)  # `plan` has compared it, or was not to
    merge(model)
    ids = {name: getattr(plan.config, name) for name in ("eos_token_id", "pad_token_id")}
    model.config, model.generation = dataclasses.replace(model.config, **ids), plan.generation.values
    model.save_pretrained(output, dtype)
    save_tokenizer(plan.tokenizer, output)


def vocabulary_of(directory: Path, adapter: Adapter, base: Path) -> tuple[GPT2Config, object, bool]:
    """The base's configuration with the entries that the adapter needs, the tokenizer, and whether it is its own.

    A tokenizer in the adapter's folder comes before the base's. Raises UserError where the two do not fit.
    """
    config = GPT2Config.from_pretrained(base)
    own = any((directory / name).is_file() for name in ("tokenizer.json", "vocab.json"))
    tokenizer = load_tokenizer(directory if own else base)
    # with whole embeddings, their rows are all there are
    rows = max(config.vocab_size, adapter.rows_needed, len(tokenizer) if own and not adapter.embeddings else 0)
    config = dataclasses.replace(config, vocab_size=rows)
    check_sizes(tokenizer, config)
    check_knows_tokens(directory, adapter, tokenizer)
    return config, tokenizer, own


def generation_of(directory: Path, base: Path, tokenizer: object, own: bool) -> tuple[GenerationConfig, int | None]:
    """What the base says of generation, with the end token that the adapter learnt; and the base's own end token.

    An adapter with a tokenizer of its own, and one that was trained here, ends its answers with its tokenizer's end
    token. Of others nothing is known, and the base's word stands.
    """
    generation = GenerationConfig.from_pretrained(base)
    before = tokenizer.eos_token_id
    if own:
        try:
            before = load_tokenizer(base).eos_token_id
        except UserError:  # it has none, or a damaged one, which nobody needs
            before = None
    learnt = own or "task" in run_arguments(directory)
    return generation.ending_with(tokenizer, before) if learnt else generation, before


def check_knows_tokens(directory: Path, adapter: Adapter, tokenizer: object) -> None:
    """Raises UserError where tokens were trained that the tokenizer does not have: prompts would lack them."""
    tokens = adapter.config.trainable_token_indices or ()
    if unknown := [token for token in tokens if token >= len(tokenizer)]:
        raise UserError(
            f"{directory} trained token {unknown[0]}, its tokenizer has {len(tokenizer)}: give the folder that holds "
            "tokenizer.json too, such as the run's own instead of a checkpoint's"
        )


def base_of(directory: Path, adapter: Adapter, given: str | None) -> Path:
    """The base model's folder: what was given, else what the adapter names, else what its run was told.

    A folder that the adapter names may have stayed on another machine. Raises UserError where there is none.
    """
    if given is not None:
        return locate(given)
    named, typed = adapter.config.base_model_name_or_path, run_arguments(directory).get("model")
    base = named if named and Path(named).is_dir() else typed or named
    if not isinstance(base, str) or not base:
        raise ParameterError("{directory} does not name its base model; give it with {model}", directory=directory)
    try:
        return locate(base)
    except UserError as error:
        template = "{directory} names a base that cannot be had: {error}; or give it with {model}"
        raise ParameterError(template, directory=directory, error=error) from None


def run_arguments(directory: Path) -> dict:
    """What a run's folder says of its training, nothing for an adapter from elsewhere."""
    try:
        return read_yaml(directory / "arguments.yaml")
    except UserError:
        return {}


def check_empty(output: Path) -> None:
    """Raises UserError where a result's folder would be written among other files."""
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} is not empty; choose another --output")
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; choose another --output")


def _labels(found: Plan, labels: Sequence[str] | None) -> tuple[str, ...] | None:
    """The classes' names: those given, else the task's, else the base's own (None), else LABEL_0, LABEL_1 …."""
    score = found.adapter.tensors.get(PREFIX + SCORE)
    if score is None:
        raise UserError(f"{found.directory}: a classifier's adapter must hold its head, {PREFIX}{SCORE}")
    if labels is not None:
        if len(labels) != len(score) or len(set(labels)) < len(labels) or not all(labels):
            raise UserError(
                f"--labels must name the {len(score)} classes of {found.directory}, each once, not {','.join(labels)}"
            )
        return tuple(labels)
    task = TASKS.get(str(run_arguments(found.directory).get("task")))
    if task is not None and len(task.labels) == len(score):
        return task.labels
    if SCORE in open_model(found.base).tensors:
        return None
    return tuple(f"LABEL_{index}" for index in range(len(score)))
