"""What is to be loaded, settled once: the base model, its tokenizer, the adapter, and what its run says of itself.

Each file is opened here, and everything that can be wrong with it is raised here. `lora/load.py` makes a model of
it. Needs no Jittor.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ParameterError, UserError
from common.files import read_yaml
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.checkpoint.generation_config import GenerationConfig, with_end
from gpt2_jittor.checkpoint.locate import is_local, locate
from gpt2_jittor.checkpoint.stored import StoredModel, open_model
from gpt2_jittor.checkpoint.tokenizer import add_tokens, check_sizes, load_tokenizer
from lora.files import Adapter, check_base, read_adapter
from lora.matching import targets_of
from lora.whole import beside

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ARGUMENTS = "arguments.yaml"
# what is read of a run's arguments, and the type of each where it is there
ARGUMENT_TYPES = {"task": str, "model": str, "data_dir": str, "max_length": int}
ARGUMENT_TYPES |= {"data": str, "columns": list, "labels": list, "validation_share": float}


@dataclass(frozen=True)
class ModelSource:
    """A model to load, all of it opened. `folder` is where it was asked for: the run's, the adapter's or the model's.

    `config` is the base's with the vocabulary that the adapter needs and the tokens that end and pad its texts;
    `generation` is what the base says of generation, with that end token. `arguments` are those of the run that the
    folder is, as its arguments.yaml has them; nothing for a folder from elsewhere. `labels` names a classifier's
    classes, where the base does not, or is a language model that gets a new head.
    """

    base: StoredModel
    config: GPT2Config
    tokenizer: "PreTrainedTokenizerFast"
    generation: GenerationConfig
    folder: Path
    adapter: Adapter | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None

    @property
    def directory(self) -> Path:
        """The base model's folder."""
        return self.base.directory

    @property
    def task(self) -> str | None:
        """The name of the task that it was trained on, where that is known."""
        return self.arguments.get("task")

    @property
    def classifies(self) -> bool:
        """Whether it tells classes apart; else it is a language model."""
        return self.base.classifies or (self.adapter is not None and self.adapter.is_classifier)

    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer. Raises UserError for what is no token's id."""
        return self.generation.ends(self.tokenizer, max(self.config.vocab_size, len(self.tokenizer)))

    def with_labels(self, labels: Sequence[str] | None) -> "ModelSource":
        """The same as a classifier of these classes; as it is where there are none."""
        return dataclasses.replace(self, labels=tuple(labels)) if labels else self

    def without_adapter(self) -> "ModelSource":
        """The base alone, with the same vocabulary."""
        return dataclasses.replace(self, adapter=None)

    def for_training(
        self, added_tokens: Sequence[str] = (), teach: Callable[[Any], None] | None = None
    ) -> tuple["ModelSource", tuple[int, ...]]:
        """The same with tokens that are added to its tokenizer, and their ids; `teach` changes the tokenizer further.

        Texts end with the tokenizer's end token from now on, beside those that end them already. Raises UserError for
        tokens that cannot be added, and for end tokens that are none.
        """
        before = self.tokenizer.eos_token_id
        added = tuple(add_tokens(self.tokenizer, added_tokens))
        if teach:
            teach(self.tokenizer)
        source = dataclasses.replace(
            self,
            config=_ending_with(self.config, self.tokenizer, before),
            generation=self.generation.ending_with(self.tokenizer, before),
        )
        source.ends()  # what is wrong with them is raised now
        return source, added


def find(model: str | None = None, adapter: str | Path | None = None, ignore_base: bool = False) -> ModelSource:
    """Settles what a model's name and an adapter's folder mean together; with neither, it is nano.

    An adapter names its base model; `model` overrides that, with a copy of what it was trained on, or, with
    `ignore_base`, with any model that its tensors fit. A tokenizer in the adapter's folder, where tokens were
    added to it, comes before the model's. Raises UserError for what is missing, damaged, or does not fit.
    """
    if adapter is None:
        base = open_model(locate(model or "nano"))
        return of_base(base, load_tokenizer(base.directory), model)
    folder = Path(adapter)
    found, arguments = read_adapter(folder), run_arguments(folder)
    return _on(open_model(base_of(folder, found, arguments, model)), folder, found, arguments, ignore_base)


def find_on(base: StoredModel, folder: Path, ignore_base: bool = False) -> ModelSource:
    """As `find`, for an adapter on a base that was opened before, whatever lies in its folder by now."""
    return _on(base, folder, read_adapter(folder), run_arguments(folder), ignore_base)


def _on(base: StoredModel, folder: Path, found: Adapter, arguments: dict[str, Any], ignore_base: bool) -> ModelSource:
    found = beside(found, base)
    check_base(folder, found, base, ignore_base)
    _check_layers(folder, found, base)
    own = has_tokenizer(folder)
    tokenizer = load_tokenizer(folder if own else base.directory)
    config = _vocabulary(folder, found, base.config, tokenizer, own)
    before = _own_end(base.directory) if own else tokenizer.eos_token_id
    generation = base.generation
    if own or "task" in arguments:  # of adapters from elsewhere nothing is known, and the base's word stands
        generation = generation.ending_with(tokenizer, before)
    config = _ending_with(config, tokenizer, before) if own else config
    if found.is_classifier and config.pad_token_id is None:  # with which transformers finds a row's last token
        config = dataclasses.replace(config, pad_token_id=tokenizer.pad_token_id)
    return ModelSource(base, config, tokenizer, generation, folder, found, arguments)


def _check_layers(folder: Path, adapter: Adapter, base: StoredModel) -> None:
    """Raises UserError for LoRA of a kind that is not for the layer that has it."""
    try:
        for path in filter(adapter.config.targets, targets_of(base.config.n_layer, head=not base.classifies)):
            adapter.config.check_layer(path)
    except UserError as error:
        raise UserError(f"{folder}: {error}; a finished adapter can be merged in PEFT") from None


def has_tokenizer(folder: Path) -> bool:
    """Whether an adapter's folder has a tokenizer of its own, to which tokens or a chat template were added."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))


def of_base(base: StoredModel, tokenizer: Any, name: str | None = None) -> ModelSource:
    """A model without an adapter. Where its `name` is a folder's, that may be a run's.

    Raises UserError where the tokenizer is another model's.
    """
    check_sizes(tokenizer, base.config)
    arguments = run_arguments(base.directory) if name and is_local(name) else {}
    return ModelSource(base, base.config, tokenizer, base.generation, base.directory, arguments=arguments)


def base_of(folder: Path, adapter: Adapter, arguments: dict[str, Any], given: str | None = None) -> Path:
    """The base model's folder: what was given, else what the adapter names, else what its run was told.

    A folder that the adapter names may have stayed on another machine. Raises UserError where there is none.
    """
    if given is not None:
        return locate(given)
    named, typed = adapter.config.base_model_name_or_path, arguments.get("model")
    base = named if named and Path(named).is_dir() else typed or named
    if not base:
        raise ParameterError("{0} does not name its base model; give it with {model}", folder)
    try:
        return locate(base)
    except UserError as error:
        template = "{0} names a base that cannot be had: {1}; or give it with {model}"
        raise ParameterError(template, folder, error) from None


def run_arguments(folder: Path) -> dict[str, Any]:
    """What a run's folder says of its training; nothing for a model or an adapter from elsewhere.

    Raises UserError where the file is damaged.
    """
    path = folder / ARGUMENTS
    if not path.is_file():
        return {}
    values = read_yaml(path)
    for name, expected in ARGUMENT_TYPES.items():
        value = values.get(name)
        texts = value if isinstance(value, list) else ()
        if value is not None and (type(value) is not expected or not all(isinstance(each, str) for each in texts)):
            kind = "a list of texts" if expected is list else expected.__name__
            raise UserError(f"{path}: {name} must be {kind}, not {value!r:.80}")
    return values


def _ending_with(config: GPT2Config, tokenizer: Any, before: int | None) -> GPT2Config:
    """The configuration of a model that learnt to end with the tokenizer's end token: transformers goes by it."""
    end = with_end(config.eos_token_id, tokenizer.eos_token_id, before)
    return dataclasses.replace(config, eos_token_id=end, pad_token_id=tokenizer.pad_token_id)


def _own_end(directory: Path) -> int | None:
    """The end token of a base's own tokenizer; None where it has none, or a damaged one, which nobody needs."""
    try:
        return load_tokenizer(directory).eos_token_id
    except UserError:
        return None


def _vocabulary(folder: Path, adapter: Adapter, config: GPT2Config, tokenizer: Any, own: bool) -> GPT2Config:
    """The base's configuration with as many entries as the adapter needs, and its tokenizer, where that is its `own`.

    Raises UserError where the two do not fit, and for tokens that were trained and that the tokenizer does not have.
    """
    # with whole embeddings, their rows are all there are
    rows = max(config.vocab_size, adapter.rows_needed, len(tokenizer) if own and not adapter.embeddings else 0)
    config = dataclasses.replace(config, vocab_size=rows)
    check_sizes(tokenizer, config)
    tokens = adapter.config.trainable_token_indices or ()
    if unknown := [token for token in tokens if token >= len(tokenizer)]:
        raise UserError(
            f"{folder} trained token {unknown[0]}, its tokenizer has {len(tokenizer)}: give the folder that holds "
            "tokenizer.json too, such as the run's own instead of a checkpoint's"
        )
    return config
