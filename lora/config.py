"""What to inject: PEFT's `LoraConfig`, the same names and meanings, read from and written to its JSON."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json
from common.terminal import short
from lora.matching import (
    ALL_LINEAR,
    EMBEDDINGS,
    PROJECTIONS,
    is_called,
    is_named,
    is_within,
    layer_number,
    listed,
    value_for,
)
from lora.problems import changes_base, problems
from lora.settings import NEWER, says_nothing, settings_of

# the names under which PEFT looks for a classifier's head; it trains and saves what it finds under them
CLASSIFIERS = ("classifier", "score")
C_ATTN = "attn.c_attn"  # the projection to queries, keys and values


@dataclasses.dataclass(frozen=True)
class LayerSettings:
    """What LoRA is at one layer: `scaling` is what B A x is multiplied by there.

    start: how A and B begin (`lora/starts.py`). magnitude: whether the layer is DoRA's. bias: whether B has one.
    qkv: the parts of c_attn's columns that have matrices of `rank` each, all of them in A and B; None for other layers.
    """

    rank: int
    alpha: float
    dropout: float
    scaling: float
    start: bool | str = True
    magnitude: bool = False
    bias: bool = False
    qkv: tuple[str, ...] | None = None

    @property
    def rows(self) -> int:
        """The rows of A, and the columns of B."""
        return self.rank * len(self.qkv or (None,))


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """LoRA's settings, with PEFT's names. Raises UserError, naming every impossible value.

    target_modules: a list of names, each matching a module's whole path or its end (`c_attn`, `mlp.c_proj`),
    or one regular expression that a module's whole path must match; `all-linear` means all projections.
    exclude_modules: the same, for what is no target all the same.
    layers_to_transform: the blocks that targets may lie in, by number; layers_pattern: what stands before the number.
    rank_pattern, alpha_pattern: other ranks and alphas for the modules whose path ends as the key says.
    modules_to_save: layers that are trained whole. With task_type SEQ_CLS the classifier's head always is.
    trainable_token_indices: the rows of the token embedding that are trained, by their ids.
    init_lora_weights: how A and B begin (`lora/starts.py`).
    use_dora: DoRA, a trained magnitude for each output (`lora/layers.py`). lora_bias: B has a bias.
    qkv: the parts of c_attn that get matrices, `q`, `k`, `v`, each of rank r; None: one pair for all of c_attn. PEFT
    has no such field: it reads the adapter as one of c_attn, whose B is zero elsewhere.
    """

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] | list[str] | str = ("c_attn",)
    exclude_modules: tuple[str, ...] | list[str] | str | None = None
    layers_to_transform: tuple[int, ...] | list[int] | int | None = None
    layers_pattern: tuple[str, ...] | list[str] | str | None = None
    rank_pattern: dict[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: dict[str, float] = dataclasses.field(default_factory=dict)
    bias: str = "none"
    modules_to_save: tuple[str, ...] | list[str] | None = None
    trainable_token_indices: tuple[int, ...] | list[int] | None = None
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    init_lora_weights: bool | str = True
    base_model_name_or_path: str | None = None
    task_type: str | None = "CAUSAL_LM"
    qkv: tuple[str, ...] | list[str] | None = None

    def __post_init__(self):
        if found := list(problems(self)):
            raise UserError(f"LoRA settings: {'; '.join(found)}")

    @property
    def scaling(self) -> float:
        """What B A x is multiplied by where no pattern says otherwise: α / r, or α / √r (Kalajdzievski 2023)."""
        return self._scaling(self.r, self.lora_alpha)

    def _scaling(self, rank: int, alpha: float) -> float:
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def for_path(self, path: str) -> LayerSettings:
        """The settings of the layer at this dotted path."""
        rank = value_for(path, "rank_pattern", self.rank_pattern, self.r)
        alpha = value_for(path, "alpha_pattern", self.alpha_pattern, self.lora_alpha)
        parts = tuple(self.qkv) if self.qkv and is_called(path, [C_ATTN]) else None
        return LayerSettings(
            rank=rank,
            alpha=alpha,
            dropout=self.lora_dropout,
            scaling=self._scaling(rank, alpha),
            start=self.init_lora_weights,
            magnitude=self.use_dora,
            bias=self.lora_bias,
            qkv=parts,
        )

    def shape(self) -> dict[str, Any]:
        """What must be equal for one adapter's weights to take the place of another's."""
        plain = self.without_parts()
        values = plain.to_dict() | {"lora_alpha": plain.scaling, "modules_to_save": sorted(set(self.saved_names))}
        for name in ("base_model_name_or_path", "task_type", "lora_dropout"):
            del values[name]
        if not changes_base(self.init_lora_weights):
            del values["init_lora_weights"]
        if not plain.rank_pattern and not plain.alpha_pattern:
            values.pop("use_rslora", None)  # it is in the scaling
        for name in ("target_modules", "exclude_modules"):
            if isinstance(values.get(name), list):
                values[name] = sorted(set(values[name]))
        return values

    def targets(self, path: str) -> bool:
        """Whether the module at this dotted path is a target, decided as PEFT decides: none that is saved whole is."""
        return self.names_target(path) and not self._is_kept_whole(path)

    def names_target(self, path: str) -> bool:
        """Whether the settings choose this path as a target, be it saved whole or not."""
        if self.exclude_modules and is_named(path, "exclude_modules", self.exclude_modules):
            return False
        return self._is_named(path) and self._is_in_layers(path)

    def _is_named(self, path: str) -> bool:
        if isinstance(self.target_modules, str) and self.target_modules.lower() == ALL_LINEAR:
            return is_called(path, PROJECTIONS)
        return is_named(path, "target_modules", self.target_modules)

    def _is_in_layers(self, path: str) -> bool:
        if self.layers_to_transform is None or path in self.target_modules:  # a whole path is meant as it is, in PEFT
            return True
        layers, pattern = self.layers_to_transform, self.layers_pattern or []
        number = layer_number(path, [pattern] if isinstance(pattern, str) else list(pattern))
        return number in ([layers] if isinstance(layers, int) else layers)

    def _is_kept_whole(self, path: str) -> bool:
        """PEFT's guard against two kinds of training of one layer takes the names for regular expressions."""
        return any(is_within(path, "modules_to_save", name) for name in self.saved_names)

    def check_targets(self, paths: list[str]) -> None:
        """Raises UserError where the targets, or one of their names, are none of these paths of a model's."""
        names = [self.target_modules] if isinstance(self.target_modules, str) else self.target_modules
        if isinstance(self.target_modules, str):
            unmatched = [] if any(map(self._is_named, paths)) else names
        else:
            unmatched = [name for name in names if not any(is_called(path, [name]) for path in paths)]
        if unmatched:
            raise UserError(
                f"target_modules: nothing in the model is called {listed(unmatched)}; use {', '.join(PROJECTIONS)}, "
                f"{', '.join(EMBEDDINGS)} or lm_head"
            )
        targets = list(filter(self.targets, paths))
        if not any(map(self.names_target, paths)):
            raise UserError("exclude_modules and layers_to_transform leave none of the target_modules: change them")
        if self.qkv and not any(is_called(path, [C_ATTN]) for path in targets):
            raise UserError("qkv names parts of c_attn, which is no target: add it to target_modules")
        self._check_names(paths, targets)
        for path in filter(self.targets, paths):
            self.check_layer(path)

    def _check_names(self, paths: list[str], targets: list[str]) -> None:
        """Raises UserError where a name that chooses among targets means none of them: it is a slip."""
        for field in ("rank_pattern", "alpha_pattern"):
            for key, value in getattr(self, field).items():
                if not any(value_for(path, field, {key: value}, None) is not None for path in targets):
                    raise UserError(f"{field}: no target is called {short(key)}")
        excluded = self.exclude_modules or []
        for name in [excluded] if isinstance(excluded, str) else excluded:
            given = name if isinstance(excluded, str) else [name]
            if not any(is_named(path, "exclude_modules", given) for path in paths):
                raise UserError(f"exclude_modules: nothing in the model is called {short(name)}")
        layers = self.layers_to_transform
        if layers is not None:
            numbers = {layer_number(path, []) for path in paths}
            if missing := [n for n in ([layers] if isinstance(layers, int) else layers) if n not in numbers]:
                raise UserError(f"layers_to_transform: the model has no block {missing[0]}")

    def check_layer(self, path: str) -> None:
        """Raises UserError where the target at this path is no projection and cannot have what the settings ask for."""
        if is_called(path, PROJECTIONS):
            return
        if self.trainable_token_indices and is_called(path, ["wte"]):
            raise UserError(f"trainable_token_indices trains rows of what has LoRA, {path}: use one of the two")
        if self.lora_bias:
            raise UserError(f"lora_bias: {path} has no bias that it could be merged into; leave one of the two out")
        if changes_base(self.init_lora_weights) and not is_called(path, EMBEDDINGS):  # which begin as ever, in PEFT too
            raise UserError(f"init_lora_weights {self.init_lora_weights} is for projections: {path} is a target, too")

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
            config = cls(**settings_of(values, {field.name for field in dataclasses.fields(cls)} - {"qkv"}))
            ties = values.get("ensure_weight_tying")
            if ties and any(config.saves(path) or config.targets(path) for path in ("transformer.wte", "lm_head")):
                raise UserError(
                    "ensure_weight_tying with modules_to_save, or with LoRA on the embedding or the head, is not "
                    "supported: merge it in PEFT"
                )
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        return config

    def to_dict(self) -> dict[str, Any]:
        """What `adapter_config.json` must hold for PEFT, of any version that can, to build the same adapter."""
        values = dataclasses.asdict(self.without_parts())
        del values["qkv"]
        values = {name: list(value) if isinstance(value, tuple | set) else value for name, value in values.items()}
        # GPT-2's projections are Conv1D, weight [in, out]
        values = {"peft_type": "LORA", "fan_in_fan_out": True, "inference_mode": True} | values
        # 0 is a block's number
        return {name: value for name, value in values.items() if name not in NEWER or not says_nothing(value)}

    def without_parts(self) -> "LoraConfig":
        """The same adapter as one of c_attn whole: n parts of rank r are one of rank n · r, of the same scaling."""
        if not self.qkv:
            return self
        count = len(self.qkv)
        rank, alpha = self.r * count, self.lora_alpha * (math.sqrt(count) if self.use_rslora else count)
        # a rank for all layers, where it is, since not every program that reads adapters knows the patterns
        if not isinstance(self.target_modules, str) and all(is_called(C_ATTN, [name]) for name in self.target_modules):
            return dataclasses.replace(self, qkv=None, r=rank, lora_alpha=alpha)
        return dataclasses.replace(self, qkv=None, rank_pattern={"c_attn": rank}, alpha_pattern={"c_attn": alpha})
