"""Several adapters as one, exactly: matrices side by side, so that B A is the weighted sum of products.

    Σ wᵢ sᵢ Bᵢ Aᵢ  =  [B₁ B₂ …] · [w₁ s₁ A₁ ; w₂ s₂ A₂ ; …]        (PEFT's combination_type "cat")

An adapter takes as many rows everywhere as it needs where it needs most; the rest are zeros. Nothing here needs Jittor.
"""

import dataclasses
import math
import numbers
from collections.abc import Mapping

import numpy as np

from common.errors import ParameterError, UserError
from gpt2_jittor.checkpoint.fingerprint import disagreement
from lora.files import Adapter
from lora.keys import PREFIX, is_a, is_matrix, layer_of
from lora.problems import changes_base


def combine(adapters: Mapping[str, Adapter], weights: Mapping[str, float], ignore_base: bool = False) -> Adapter:
    """One adapter for the weighted sum of those that `weights` names. Ranks, alphas and targets may differ.

    Raises UserError for weights that are no numbers, for adapters that train more than LoRA's matrices, and
    where they are not of one model. With `ignore_base`, its shapes alone must be the same.
    """
    _check(adapters, weights, ignore_base)
    parts = [(adapters[name], weight) for name, weight in weights.items()]
    ranks = [max(adapter.config.for_path(path).rank for path in paths(adapter)) for adapter, _ in parts]
    rank = sum(ranks)
    tensors: dict[str, np.ndarray] = {}
    start = 0
    for (adapter, weight), rows in zip(parts, ranks, strict=True):
        for key, values in adapter.tensors.items():
            if not is_matrix(key) or values.ndim != 2:
                raise UserError(f"{key} {list(values.shape)} is no matrix of LoRA's: this adapter cannot be combined")
            given = adapter.config.for_path(layer_of(key))
            end = start + given.rank
            if is_a(key):
                whole = tensors.setdefault(key, np.zeros((rank, values.shape[1]), np.float32))
                place, scale = whole[start:end], weight * given.scaling
            else:
                whole = tensors.setdefault(key, np.zeros((values.shape[0], rank), np.float32))
                place, scale = whole[:, start:end], 1.0
            if place.shape != values.shape:
                raise UserError(f"these adapters are of different models: {key} is {list(values.shape)} in one of them")
            with np.errstate(over="ignore", invalid="ignore"):
                place[:] = values * np.float32(scale)
            if not np.isfinite(place).all():
                raise UserError(f"{key} times {weight:g} is beyond float32: give smaller weights")
        start += rows
    # α = r: the scaling of B A is 1, since each adapter's own is in its A
    bases = {adapter.config.base_model_name_or_path for adapter, _ in parts}
    config = dataclasses.replace(
        parts[0][0].config,
        r=rank,
        lora_alpha=rank,
        task_type=next((adapter.config.task_type for adapter, _ in parts if adapter.config.task_type), None),
        use_rslora=False,
        modules_to_save=None,
        target_modules=_targets(parts),
        **dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern")),
        rank_pattern={},
        alpha_pattern={},
        base_model_name_or_path=bases.pop() if len(bases) == 1 else None,
    )
    tables = parts[0][0].embeddings  # all have the same
    return Adapter(config, tensors, tables, base=next((adapter.base for adapter, _ in parts if adapter.base), None))


def _check(adapters: Mapping[str, Adapter], weights: Mapping[str, float], ignore_base: bool) -> None:
    if not weights:
        raise UserError("a combination needs at least one adapter and its weight")
    for name, weight in weights.items():
        if name not in adapters:
            raise UserError(f"there is no adapter {name!r}; loaded are {', '.join(adapters) or 'none'}")
        if isinstance(weight, bool) or not isinstance(weight, numbers.Real) or not math.isfinite(weight):
            raise UserError(f"the weight of adapter {name!r} must be a number, not {weight!r}")
        more = [kind for kind, there in more_than_matrices(adapters[name]) if there]
        if not _same(adapters[name].embeddings, adapters[next(iter(weights))].embeddings):
            more.append("embeddings of its own")
        if more:
            raise UserError(f"adapter {name!r} trains {' and '.join(more)} besides its matrices: it cannot be combined")
    known = [] if ignore_base else [name for name in weights if adapters[name].base]
    for name in known[1:]:
        first, second = adapters[known[0]], adapters[name]
        if difference := disagreement(first.base, second.base, second.is_classifier):
            raise ParameterError(
                "adapters {first!r} and {second!r} were trained on different bases, so that no sum fits either: "
                "{difference}; {ignore_base} goes on",
                first=known[0],
                second=name,
                difference=difference,
            )
    tasks = {adapters[name].config.task_type for name in weights} - {None}  # PEFT may leave it out
    if len(tasks) > 1:
        raise UserError(f"these adapters are for different tasks: {', '.join(sorted(map(str, tasks)))}")


def more_than_matrices(adapter: Adapter):
    """What an adapter holds besides LoRA matrices, of which no sum can be made."""
    config = adapter.config
    layers = {key.removeprefix(PREFIX).rpartition(".")[0] for key in adapter.tensors}  # names may match nothing
    yield "whole layers (modules_to_save)", config.task_type == "SEQ_CLS" or any(map(config.saves, layers))
    yield "tokens (trainable_token_indices)", config.trainable_token_indices
    yield f"biases ({config.bias})", config.bias != "none"
    yield "magnitudes (use_dora)", config.use_dora
    yield "B's biases (lora_bias)", config.lora_bias
    start = config.init_lora_weights
    yield f"the base's weights ({start}; `python -m lora convert` makes a plain adapter of it)", changes_base(start)


def _same(tables: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> bool:
    return tables.keys() == others.keys() and all(np.array_equal(table, others[name]) for name, table in tables.items())


def _targets(parts: list[tuple[Adapter, float]]) -> list[str]:
    """Names that match what any part targets: all names of all of them, or whole paths where one is more choosy."""
    configs = [adapter.config for adapter, _ in parts]
    named = [config.target_modules for config in configs]
    chosen = any(config.exclude_modules or config.layers_to_transform is not None for config in configs)
    if chosen or any(isinstance(names, str) for names in named):
        return sorted({path for adapter, _ in parts for path in paths(adapter)})
    return sorted({name for names in named for name in names})


def paths(adapter: Adapter) -> list[str]:
    """The layers that the adapter's matrices stand beside, by their dotted paths."""
    return [layer_of(key) for key in adapter.tensors if is_a(key)]
