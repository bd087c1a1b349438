"""What to inject: PEFT's `LoraConfig`, the same names and meanings, read from and written to its JSON."""

import dataclasses
import math
import re
import reprlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json
from common.limit import at_most

BIASES = ("none", "all", "lora_only")
INITS = (True, False, "gaussian")
PROJECTIONS = ("c_attn", "c_proj", "c_fc")
MATCHING_SECONDS = 2  # a regular expression from elsewhere may take years

# the names under which PEFT looks for a classifier's head; it trains and saves what it finds under them
CLASSIFIERS = ("classifier", "score")

# initialisations with which PEFT also rewrites the base's weights, at every loading
CHANGE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga", "eva")

# what PEFT's file says besides, and what the numbers of an adapter that was stored do not depend on
HARMLESS = (
    *("auto_mapping", "inference_mode", "merge_weights", "peft_type", "peft_version", "revision", "runtime_config"),
    "fan_in_fan_out",  # PEFT sees what the layer is
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config"),  # how the matrices were drawn
    *("layers_pattern", "megatron_core", "qalora_group_size"),  # they belong to fields that are refused
    "ensure_weight_tying",  # but with modules_to_save
)
# fields that PEFT got later (0.15, 0.8): to an older one their very names are an error, so they are written where
# they are used; all others are as old as 0.3, and always written
NEWER = ("trainable_token_indices", "use_rslora")
TASK_TYPES = ("CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
ALL_LINEAR = "all-linear"  # PEFT's word for every projection
LARGEST_SIZE, LARGEST_FLOAT = 2**31 - 1, 3.4e38  # what a tensor's dimension and a float32 can hold
NAMED = 8  # fields in an error message


@dataclasses.dataclass(frozen=True)
class LayerSettings:
    """What LoRA is at one projection: `scaling` is what B A x is multiplied by there."""

    rank: int
    alpha: float
    dropout: float
    scaling: float


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """LoRA's settings, with PEFT's names. Raises UserError, naming every impossible value.

    target_modules: a list of names, each matching a module's whole path or its end (`c_attn`, `mlp.c_proj`),
    or one regular expression that a module's whole path must match.
    modules_to_save: layers that are trained whole. With task_type SEQ_CLS the classifier's head always is.
    trainable_token_indices: the rows of the token embedding that are trained, by their ids.
    """

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] | list[str] | str = ("c_attn",)
    bias: str = "none"
    modules_to_save: tuple[str, ...] | list[str] | None = None
    trainable_token_indices: tuple[int, ...] | list[int] | None = None
    use_rslora: bool = False
    init_lora_weights: bool | str = True
    base_model_name_or_path: str | None = None
    task_type: str | None = "CAUSAL_LM"

    def __post_init__(self):
        problems = list(_problems(self))
        if problems:
            raise UserError(f"LoRA settings: {'; '.join(problems)}")

    @property
    def scaling(self) -> float:
        """What B A x is multiplied by: α / r, or α / √r (rank-stabilised, Kalajdzievski 2023)."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def for_path(self, path: str) -> LayerSettings:
        """The settings of the projection at this dotted path: today the same for every path."""
        return LayerSettings(self.r, self.lora_alpha, self.lora_dropout, self.scaling)

    def shape(self) -> tuple:
        """What must be equal for one adapter's weights to take the place of another's."""
        targets = self.target_modules if isinstance(self.target_modules, str) else sorted(set(self.target_modules))
        tokens = list(self.trainable_token_indices or ())
        return self.r, self.scaling, self.bias, targets, sorted(set(self.saved_names)), tokens

    def targets(self, path: str) -> bool:
        """Whether the module at this dotted path is a target, decided as PEFT decides: none that is saved whole is."""
        return self.names_target(path) and not self._is_kept_whole(path)

    def names_target(self, path: str) -> bool:
        """Whether `target_modules` matches this path, be it saved whole or not."""
        if not isinstance(self.target_modules, str):
            return is_called(path, self.target_modules)
        if self.target_modules.lower() == ALL_LINEAR:
            return is_called(path, PROJECTIONS)
        return _matches(re.fullmatch, "target_modules", self.target_modules, self.target_modules, path)

    def _is_kept_whole(self, path: str) -> bool:
        """PEFT's guard against two kinds of training of one layer takes the names for regular expressions."""
        return any(_matches(re.match, "modules_to_save", name, _part(name), path) for name in self.saved_names)

    def check_targets(self, projections: list[str]) -> None:
        """Raises UserError where the targets, or one of their names, are none of these paths of a model's."""
        names = [self.target_modules] if isinstance(self.target_modules, str) else self.target_modules
        if isinstance(self.target_modules, str):
            unmatched = [] if any(map(self.names_target, projections)) else names
        else:
            unmatched = [name for name in names if not any(is_called(path, [name]) for path in projections)]
        if unmatched:
            raise UserError(
                f"target_modules: nothing in the model is called {listed(unmatched)}; use {', '.join(PROJECTIONS)}"
            )

    @property
    def saved_names(self) -> tuple[str, ...]:
        """`modules_to_save`, and a classifier's head under either name, as in PEFT."""
        return (*(self.modules_to_save or ()), *(CLASSIFIERS if self.task_type == "SEQ_CLS" else ()))

    def saves(self, path: str) -> bool:
        """Whether the module at this dotted path is trained and saved whole: PEFT asks for the path's end alone."""
        return any(path.endswith(name) for name in self.saved_names)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "LoraConfig":
        """Reads `adapter_config.json`. Raises UserError where it is missing or asks for what we lack."""
        path = Path(directory) / "adapter_config.json"
        values = read_json(path)
        try:
            config = cls(**_settings(values))
            if values.get("ensure_weight_tying") and any(map(config.saves, ("transformer.wte", "lm_head"))):
                raise UserError("ensure_weight_tying with modules_to_save is not supported: merge it in PEFT")
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        return config

    def to_dict(self) -> dict[str, Any]:
        """What `adapter_config.json` must hold for PEFT, of any version that can, to build the same adapter."""
        values = dataclasses.asdict(self)
        for name in ("target_modules", "modules_to_save", "trainable_token_indices"):
            if isinstance(values[name], tuple | set):
                values[name] = list(values[name])
        # GPT-2's projections are Conv1D, weight [in, out]
        values = {"peft_type": "LORA", "fan_in_fan_out": True, "inference_mode": True} | values
        return {name: value for name, value in values.items() if value or name not in NEWER}


def projections_of(layers: int) -> list[str]:
    """The dotted paths of what can be a target in a GPT-2 of so many blocks."""
    names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    return [f"transformer.h.{layer}.{name}" for layer in range(layers) for name in names]


def is_called(path: str, names: Iterable[str]) -> bool:
    """Whether one of `names` is a module's dotted path, or the end of it."""
    return any(path == name or path.endswith(f".{name}") for name in names)


def _settings(values: dict[str, Any]) -> dict[str, Any]:
    """`LoraConfig`'s arguments out of PEFT's file. Raises UserError for what changes the result and is not known."""
    if values.get("peft_type") != "LORA":
        raise UserError(f"peft_type is {_short(values.get('peft_type'))}; only LORA adapters can be used")
    known = {field.name for field in dataclasses.fields(LoraConfig)}
    # false, null or empty means "not used" in every field of PEFT's; 0 does not, as a layer's number
    unknown = sorted(
        name
        for name, value in values.items()
        if name not in known and name not in HARMLESS and not _says_nothing(value)
    )
    if unknown:
        raise UserError(f"{listed(unknown)} is not supported and may change the result; use a plain LoRA adapter")
    settings = {name: values[name] for name in known & values.keys()}
    for name in ("target_modules", "use_rslora"):  # without a value they are PEFT's default
        if settings.get(name, ...) is None:
            del settings[name]
    drawn = settings.get("init_lora_weights")
    if isinstance(drawn, str) and drawn.lower().startswith(CHANGE_BASE):
        raise UserError(f"init_lora_weights {_short(drawn)} changes the base model's weights: merge it in PEFT first")
    if not isinstance(drawn, bool | str) or drawn not in INITS:
        settings.pop("init_lora_weights", None)  # how the matrices were drawn does not matter to those who read them
    settings["trainable_token_indices"] = _tokens(settings.get("trainable_token_indices"))
    return settings


def _tokens(value: object) -> object:
    """PEFT's field: a list of ids, or ids for each embedding by its name, of which this project knows one."""
    if value in (None, [], {}):
        return None
    if not isinstance(value, dict):
        return value
    name, *others = value
    # PEFT asks for a path's end here too; "e" would be both
    if others or not "transformer.wte".endswith(name) or "transformer.wpe".endswith(name):
        raise UserError(f"trainable_token_indices for {listed(value)}; only the token embedding's (wte) are supported")
    return value[name]


def _says_nothing(value: object) -> bool:
    return value is None or value is False or value in ("", [], {})


def _part(name: str) -> str:
    """The expression with which PEFT looks for `name` among a path's parts."""
    return rf"(^|.*\.){name}($|\..*)"


def _matches(match: Callable, field: str, given: str, expression: str, path: str) -> bool:
    endless = UserError(f"{field} {_short(given)} takes too long to match {path}: write it plainer")
    with at_most(MATCHING_SECONDS, endless):
        return match(expression, path) is not None


def _problems(config: LoraConfig):
    if not isinstance(config.r, int) or isinstance(config.r, bool) or config.r < 1:
        yield f"r must be a whole number of at least 1, not {_short(config.r)}"
    elif config.r > LARGEST_SIZE:
        yield f"r must be at most {LARGEST_SIZE}"
    if not _is_number(config.lora_alpha) or config.lora_alpha <= 0:
        yield f"lora_alpha must be positive, not {_short(config.lora_alpha)}"
    if not _is_number(config.lora_dropout) or not 0 <= config.lora_dropout < 1:
        yield f"lora_dropout must be at least 0 and below 1, not {_short(config.lora_dropout)}"
    if config.bias not in BIASES:
        yield f"bias must be one of {', '.join(BIASES)}, not {_short(config.bias)}"
    if config.init_lora_weights not in INITS:
        yield f"init_lora_weights must be true, false or gaussian, not {_short(config.init_lora_weights)}"
    if not isinstance(config.use_rslora, bool):
        yield f"use_rslora must be true or false, not {_short(config.use_rslora)}"
    if not config.target_modules:
        yield f"target_modules is empty; GPT-2 has {', '.join(PROJECTIONS)}"
    elif not isinstance(config.target_modules, str) and not _is_names(config.target_modules):
        yield f"target_modules must be names or one regular expression, not {_short(config.target_modules)}"
    if config.modules_to_save is not None and not _is_names(config.modules_to_save):
        yield f"modules_to_save must be a list of names, not {_short(config.modules_to_save)}"
    tokens = config.trainable_token_indices
    if tokens is not None and not _is_ids(tokens):
        yield f"trainable_token_indices must be a list of token ids, each of them once, not {_short(tokens)}"
    if not isinstance(config.base_model_name_or_path, str | None):
        yield f"base_model_name_or_path must be a name or a folder, not {_short(config.base_model_name_or_path)}"
    if config.task_type is not None and config.task_type not in TASK_TYPES:
        yield f"task_type must be one of {', '.join(TASK_TYPES)}, not {_short(config.task_type)}"
    yield from _faulty_expressions(config)


def _faulty_expressions(config: LoraConfig):
    expressions = []
    if isinstance(config.target_modules, str):
        expressions.append(("target_modules", config.target_modules, config.target_modules))
    if _is_names(config.modules_to_save):
        expressions += [("modules_to_save", name, _part(name)) for name in config.modules_to_save]
    for field, given, expression in expressions:
        try:
            re.compile(expression)
        except (re.error, OverflowError, RecursionError) as error:
            yield f"{field} {_short(given)} is no regular expression ({error})"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_FLOAT


def _is_names(value: object) -> bool:
    return isinstance(value, list | tuple | set) and all(isinstance(name, str) for name in value)


def _is_ids(value: object) -> bool:
    if not isinstance(value, list | tuple) or not value:
        return False
    whole = all(isinstance(token, int) and not isinstance(token, bool) for token in value)
    return whole and all(0 <= token <= LARGEST_SIZE for token in value) and len(set(value)) == len(value)


def listed(names: Iterable[str]) -> str:
    """Names from outside, the first NAMED of them, in quotes."""
    names = list(names)
    return ", ".join(map(_short, names[:NAMED])) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _short(value: object) -> str:
    """`repr`, of what may come from outside and be of any size."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = 100
    try:
        return shown.repr(value)
    except ValueError:  # of an integer that Python takes too long to print
        return "a number of thousands of digits"
