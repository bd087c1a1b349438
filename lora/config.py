"""What to inject: PEFT's `LoraConfig`, the same names and meanings, read from and written to its JSON."""

import dataclasses
import math
import re
from collections.abc import Iterable
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

# entries of PEFT's file that change the computation in ways this project does not have
UNSUPPORTED = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "exclude_modules",
    "kasa_config",
    "layer_replication",
    "layers_to_transform",
    "lora_bias",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
)


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
        """The factor of B A x: α / r, or α / √r (rank-stabilised, Kalajdzievski 2023)."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def shape(self) -> tuple:
        """What must be equal for one adapter's weights to take the place of another's."""
        targets = self.target_modules if isinstance(self.target_modules, str) else sorted(set(self.target_modules))
        tokens = list(self.trainable_token_indices or ())
        return self.r, self.scaling, self.bias, targets, sorted(set(self.saved_names)), tokens

    def targets(self, path: str) -> bool:
        """Whether the module at this dotted path is a target, decided as PEFT decides."""
        if isinstance(self.target_modules, str):
            return self._matches(path)
        return is_called(path, self.target_modules)

    def check_targets(self, projections: list[str]) -> None:
        """Raises UserError where the targets, or one of their names, are none of these paths of a model's."""
        names = [self.target_modules] if isinstance(self.target_modules, str) else self.target_modules
        if isinstance(self.target_modules, str):
            unmatched = [] if any(map(self.targets, projections)) else names
        else:
            unmatched = [name for name in names if not any(is_called(path, [name]) for path in projections)]
        if unmatched:
            missing = ", ".join(map(repr, unmatched))
            raise UserError(f"target_modules: nothing in the model is called {missing}; use {', '.join(PROJECTIONS)}")

    def _matches(self, path: str) -> bool:
        endless = UserError(f"target_modules {self.target_modules!r} takes too long to match {path}: write it plainer")
        with at_most(MATCHING_SECONDS, endless):
            return re.fullmatch(self.target_modules, path) is not None

    @property
    def saved_names(self) -> tuple[str, ...]:
        """`modules_to_save`, and a classifier's head under either name, as in PEFT."""
        return (*(self.modules_to_save or ()), *(CLASSIFIERS if self.task_type == "SEQ_CLS" else ()))

    def saves(self, path: str) -> bool:
        """Whether the module at this dotted path is trained and saved whole."""
        return is_called(path, self.saved_names)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "LoraConfig":
        """Reads `adapter_config.json`. Raises UserError where it is missing or asks for what we lack."""
        path = Path(directory) / "adapter_config.json"
        values = read_json(path)
        if values.get("peft_type") != "LORA":
            raise UserError(f"{path}: peft_type is {values.get('peft_type')!r}; only LORA adapters can be used")
        # a number is a setting, though it be 0, as a layer's is
        unsupported = [name for name in UNSUPPORTED if values.get(name) or type(values.get(name)) is int]
        if unsupported:
            raise UserError(f"{path}: {', '.join(unsupported)} is not supported; use a plain LoRA adapter")
        drawn = values.get("init_lora_weights")
        if isinstance(drawn, str) and drawn.startswith(CHANGE_BASE):
            raise UserError(
                f"{path}: init_lora_weights {drawn!r} changes the base model's weights: merge it in PEFT first"
            )
        if values.get("ensure_weight_tying") and {"wte", "lm_head"} & set(values.get("modules_to_save") or ()):
            raise UserError(f"{path}: ensure_weight_tying with modules_to_save is not supported: merge it in PEFT")
        values = values | {"trainable_token_indices": _tokens(values.get("trainable_token_indices"), path)}
        # how the factors were drawn otherwise does not matter to those who read them
        known = {field.name for field in dataclasses.fields(cls)} - {"init_lora_weights"}
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """What `adapter_config.json` must hold for PEFT to build the same adapter."""
        values = dataclasses.asdict(self)
        for name in ("target_modules", "modules_to_save", "trainable_token_indices"):
            if isinstance(values[name], tuple | set):
                values[name] = list(values[name])
        # GPT-2's projections are Conv1D, weight [in, out]
        return {"peft_type": "LORA", "fan_in_fan_out": True, "inference_mode": True} | values


def projections_of(layers: int) -> list[str]:
    """The dotted paths of what can be a target in a GPT-2 of so many blocks."""
    names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    return [f"transformer.h.{layer}.{name}" for layer in range(layers) for name in names]


def is_called(path: str, names: Iterable[str]) -> bool:
    """Whether one of `names` is a module's dotted path, or the end of it."""
    return any(path == name or path.endswith(f".{name}") for name in names)


def _tokens(value: object, source: Path) -> object:
    """PEFT's field: a list of ids, or ids for each embedding by its name, of which this project knows one."""
    if not isinstance(value, dict):
        return value
    if len(value) != 1 or not is_called("transformer.wte", value):
        raise UserError(
            f"{source}: trainable_token_indices for {', '.join(map(str, value)) or 'nothing'}; "
            "only the token embedding's (wte) are supported"
        )
    return next(iter(value.values()))


def _problems(config: LoraConfig):
    if not isinstance(config.r, int) or isinstance(config.r, bool) or config.r < 1:
        yield f"r must be a whole number of at least 1, not {config.r!r}"
    if not _is_number(config.lora_alpha) or config.lora_alpha <= 0:
        yield f"lora_alpha must be positive, not {config.lora_alpha!r}"
    if not _is_number(config.lora_dropout) or not 0 <= config.lora_dropout < 1:
        yield f"lora_dropout must be at least 0 and below 1, not {config.lora_dropout!r}"
    if config.bias not in BIASES:
        yield f"bias must be one of {', '.join(BIASES)}, not {config.bias!r}"
    if config.init_lora_weights not in INITS:
        yield f"init_lora_weights must be true, false or gaussian, not {config.init_lora_weights!r}"
    if not isinstance(config.use_rslora, bool):
        yield f"use_rslora must be true or false, not {config.use_rslora!r}"
    if not config.target_modules:
        yield f"target_modules is empty; GPT-2 has {', '.join(PROJECTIONS)}"
    elif not isinstance(config.target_modules, str) and not _is_names(config.target_modules):
        yield f"target_modules must be names or one regular expression, not {config.target_modules!r}"
    if config.modules_to_save is not None and not _is_names(config.modules_to_save):
        yield f"modules_to_save must be a list of names, not {config.modules_to_save!r}"
    tokens = config.trainable_token_indices
    if tokens is not None and not _is_ids(tokens):
        yield f"trainable_token_indices must be a list of token ids, each of them once, not {tokens!r}"
    if isinstance(config.target_modules, str):
        try:
            re.compile(config.target_modules)
        except re.error as error:
            yield f"target_modules {config.target_modules!r} is no regular expression ({error})"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_names(value: object) -> bool:
    return isinstance(value, list | tuple | set) and all(isinstance(name, str) for name in value)


def _is_ids(value: object) -> bool:
    if not isinstance(value, list | tuple) or not value or len(set(map(repr, value))) < len(value):
        return False
    return all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in value)
