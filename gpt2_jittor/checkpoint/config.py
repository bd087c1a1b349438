"""The numbers that define a GPT-2, under Hugging Face's names.

`GPT2Config` holds exactly the fields of a `config.json` that change what the model computes (and the token
ids that generation needs), so that a folder written by transformers is read as it is and the other way round.
"""

import dataclasses
import reprlib
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError
from common.files import read_json

ACTIVATIONS = (
    "gelu_new",
    "gelu",
    "gelu_fast",
    "gelu_pytorch_tanh",
    "quick_gelu",
    "relu",
    "silu",
    "swish",
    "tanh",
)

# transformers reads these names as well
SYNONYMS = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

# more classes than this must be named: a number alone must not fill the memory with names
MAX_UNNAMED = 1 << 16
MAX_SIZE = 1 << 40  # what is larger than any file need not be compared with one
MAX_FLOAT = 3e38  # of float32

# entries that would change the computation in a way that this model does not have
UNSUPPORTED = ("add_cross_attention", "is_encoder_decoder", "quantization_config", "pruned_heads")

PROBLEMS = (None, "single_label_classification")  # of a classifier: several classes a text, or a number, are others


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """A GPT-2's sizes and switches. The defaults are GPT-2 small's (124M parameters).

    Raises UserError, with every problem in one line, where the values make no model.
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None  # the MLP's width; None: 4 * n_embd. Read it through `mlp_size`
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    tie_word_embeddings: bool = True
    scale_attn_weights: bool = True  # scores are divided by sqrt(head_dim)
    scale_attn_by_inverse_layer_idx: bool = False  # ... and by the block's number, from 1
    reorder_and_upcast_attn: bool = False  # the same scores in float32, scaled before the product
    initializer_range: float = 0.02
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256  # several: each of them ends a text
    pad_token_id: int | None = None
    labels: tuple[str, ...] | None = None  # a classifier's classes, in the order of its scores: HF's id2label

    def __post_init__(self):
        problems = _type_problems(self) or _value_problems(self)
        if problems:
            raise UserError(f"this is no GPT-2 configuration: {'; '.join(problems)}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def mlp_size(self) -> int:
        """Width of the MLP's hidden layer."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str | Path) -> "GPT2Config":
        """Builds a configuration from the content of a `config.json`.

        Entries that do not change the computation are ignored. Raises UserError, naming `source`, for
        another model type, for a feature that this model lacks and for impossible values.
        """
        if values.get("model_type", "gpt2") != "gpt2":
            raise UserError(
                f"{source}: model_type is {reprlib.repr(values['model_type'])}; only gpt2 models can be used"
            )
        unsupported = [name for name in UNSUPPORTED if values.get(name)]
        if unsupported:
            raise UserError(f"{source}: {', '.join(unsupported)} is not supported; use a plain GPT-2 checkpoint")
        if (problem := values.get("problem_type")) not in PROBLEMS:
            raise UserError(f"{source}: problem_type {reprlib.repr(problem)} is not supported: each text has one class")
        named = values.get("architectures")
        if not isinstance(named, list | None) or not all(isinstance(name, str) for name in named or ()):
            raise UserError(f"{source}: architectures must be a list of names, not {reprlib.repr(named)}")
        values = {SYNONYMS[name]: value for name, value in values.items() if name in SYNONYMS} | values
        values = values | {"labels": _labels(values, source)}
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except UserError as error:
            raise UserError(f"{source}: {error}") from None

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "GPT2Config":
        """Reads `config.json` in a folder. Raises UserError where it is missing or makes no model."""
        path = Path(directory) / "config.json"
        return cls.from_dict(read_json(path), path)

    def to_dict(self, architecture: str = "GPT2LMHeadModel") -> dict[str, Any]:
        """What a `config.json` must hold for transformers to build the same model."""
        values = {"model_type": "gpt2", "architectures": [architecture]} | dataclasses.asdict(self)
        labels = values.pop("labels")
        if labels is not None:
            values["id2label"] = {str(index): label for index, label in enumerate(labels)}
            values["label2id"] = {label: index for index, label in enumerate(labels)}
        return values


def several_ids(value: Any) -> tuple[int, ...]:
    """One id, or a list of some, as a tuple; None is none. Raises ValueError for anything else."""
    if value is None:
        return ()
    several = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not several or not all(type(each) is int for each in several):
        raise ValueError(f"must be a token's id or a list of some, not {reprlib.repr(value)}")
    return several


def _labels(values: dict[str, Any], source: str | Path) -> tuple[str, ...] | None:
    """The classes that `id2label` names, or as many as `num_labels` says under transformers' default names."""
    if (named := values.get("id2label")) is not None:
        by_number = {str(key): str(name) for key, name in named.items()} if isinstance(named, dict) else {}
        numbers = [str(number) for number in range(len(by_number))]
        if not numbers or by_number.keys() != set(numbers):
            raise UserError(f"{source}: id2label must map 0, 1, … to the classes' names, not {reprlib.repr(named)}")
        return tuple(by_number[number] for number in numbers)
    count = values.get("num_labels")
    if count is None:
        return None
    if type(count) is not int or not 0 <= count <= MAX_UNNAMED:
        wanted = f"a whole number up to {MAX_UNNAMED:,}, or id2label name the classes"
        raise UserError(f"{source}: num_labels must be {wanted}, not {reprlib.repr(count)}")
    return tuple(f"LABEL_{index}" for index in range(count)) or None


def _type_problems(config: GPT2Config) -> list[str]:
    problems = []
    for field in dataclasses.fields(config):
        if field.name == "labels":
            continue
        if field.name == "eos_token_id":
            problems += _end_problems(config.eos_token_id)
            continue
        value, kind = getattr(config, field.name), field.type
        # Python counts True as an integer; a JSON file that says so is wrong
        allowed = {int: int, float: int | float, bool: bool, str: str}.get(kind, int | None)
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            name = kind.__name__ if isinstance(kind, type) else kind
            problems.append(f"{field.name} must be {name}, not {reprlib.repr(value)}")
    return problems


def _end_problems(value: Any) -> list[str]:
    try:
        several_ids(value)
    except ValueError as error:
        return [f"eos_token_id {error}"]
    return []


def _value_problems(config: GPT2Config) -> list[str]:
    problems = []
    for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
        problems += _size_problems(name, getattr(config, name))
    if config.n_inner is not None:
        problems += _size_problems("n_inner", config.n_inner)
    if 0 < config.n_head <= MAX_SIZE >= config.n_embd and config.n_embd % config.n_head:
        problems.append(f"n_embd {config.n_embd} must be a multiple of n_head {config.n_head}")
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if not 0 <= getattr(config, name) < 1:
            problems.append(f"{name} must be at least 0 and below 1, not {reprlib.repr(getattr(config, name))}")
    # JSON's integers have no end: more than a float32 holds is as wrong as infinity
    if not 0 < config.layer_norm_epsilon < MAX_FLOAT:
        problems.append(f"layer_norm_epsilon must be positive, not {reprlib.repr(config.layer_norm_epsilon)}")
    if not 0 <= config.initializer_range < MAX_FLOAT:
        problems.append(f"initializer_range must not be negative, not {reprlib.repr(config.initializer_range)}")
    if config.activation_function not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        problems.append(f"activation_function {reprlib.repr(config.activation_function)} is not one of {known}")
    return problems


def _size_problems(name: str, size: int) -> list[str]:
    if size <= 0:
        return [f"{name} must be positive, not {reprlib.repr(size)}"]
    return [f"{name} is impossibly large: {reprlib.repr(size)}"] if size > MAX_SIZE else []


class Preset(NamedTuple):
    """A published model: where the hub has it, and its configuration (known without a network)."""

    repo_id: str
    config: GPT2Config


_MEDIUM = GPT2Config(n_embd=1024, n_layer=24, n_head=16)
_LARGE = GPT2Config(n_embd=1280, n_layer=36, n_head=20)
_XL = GPT2Config(n_embd=1600, n_layer=48, n_head=25)

PRESETS = {
    "gpt2": Preset("openai-community/gpt2", GPT2Config()),
    "gpt2-medium": Preset("openai-community/gpt2-medium", _MEDIUM),
    "gpt2-large": Preset("openai-community/gpt2-large", _LARGE),
    "gpt2-xl": Preset("openai-community/gpt2-xl", _XL),
    "microsoft/DialoGPT-small": Preset("microsoft/DialoGPT-small", GPT2Config()),
    "microsoft/DialoGPT-medium": Preset("microsoft/DialoGPT-medium", _MEDIUM),
    "microsoft/DialoGPT-large": Preset("microsoft/DialoGPT-large", _LARGE),
}
