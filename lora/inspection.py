"""What an adapter's folder holds, in numbers: settings, sizes, and how far each projection was moved.

B A is never formed: ‖B A‖² = Σ (BᵀB) ∘ (A Aᵀ), two matrices of r × r. Nothing here needs Jittor.
"""

import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from gpt2_jittor.checkpoint.stored import EMBEDDING, HEAD
from gpt2_jittor.checkpoint.weights import read_tensors
from lora.convert import to_plain
from lora.files import Adapter, read_adapter, weights_of
from lora.keys import PREFIX, is_a, is_matrix, layer_of, other_of
from lora.problems import changes_base


def inspect(directory: Path, base: Path | None = None) -> dict[str, Any]:
    """A summary that JSON can hold. With the base model's folder, changes are also given relative to its weights.

    Raises UserError where files are missing or damaged, or where the adapter is not of this base.
    """
    adapter = read_adapter(directory)
    config, settings = adapter.config, adapter.config.to_dict()
    values = (*adapter.tensors.values(), *adapter.embeddings.values())
    return {
        "adapter": str(directory),
        "base_model": config.base_model_name_or_path,
        "task_type": config.task_type,
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "scaling": config.scaling,
        **{name: settings.get(name) for name in ("rank_pattern", "alpha_pattern", "use_dora", "lora_bias")},
        "init_lora_weights": config.init_lora_weights if changes_base(config.init_lora_weights) else None,
        "lora_dropout": config.lora_dropout,
        "bias": config.bias,
        **{name: settings.get(name) for name in ("target_modules", "exclude_modules", "layers_to_transform")},
        "modules_to_save": settings["modules_to_save"],
        "trained_tokens": settings.get("trainable_token_indices"),
        "whole_embeddings": sorted(adapter.embeddings),
        "parameters": sum(array.size for array in values),
        "bytes": weights_of(directory).stat().st_size,
        "whole_tensors": _whole(adapter),
        "projections": _projections(adapter, base),
    }


def product_norm(a: np.ndarray, b: np.ndarray) -> float:
    """The Frobenius norm of B A, from A [r, in] and B [out, r]."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return math.sqrt(max(np.sum((b.T @ b) * (a @ a.T)), 0.0))  # rounding may leave less than nothing


def describe(summary: dict[str, Any]) -> str:
    """The summary for people: a line for each setting, then a table of the layers that have matrices."""
    lines = []
    for name, value in summary.items():
        if name in ("projections", "whole_tensors") or value in (None, []):
            continue
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        elif name in ("parameters", "bytes"):
            value = f"{value:,}"
        elif isinstance(value, float):
            value = f"{value:g}"
        lines.append(f"{name.replace('_', ' '):<17} {value}")
    for whole in summary["whole_tensors"]:
        lines.append(f"{'whole tensor':<17} {whole['path']} {whole['shape']}, norm {whole['norm']:.4g}")
    rows = summary["projections"]
    if summary["use_dora"]:
        lines.append("‖ΔW‖ is that of the matrices, before DoRA's magnitudes")
    if not rows:
        return "\n".join(lines)
    columns = [("A", "‖A‖"), ("B", "‖B‖"), ("change", "‖ΔW‖"), ("weight", "‖W‖"), ("relative", "‖ΔW‖/‖W‖")]
    columns = [(name, title) for name, title in columns if name in rows[0]]
    width = max(len("projection"), *(len(row["path"]) for row in rows))
    lines += ["", "  ".join([f"{'projection':<{width}}", *(f"{title:>9}" for _, title in columns)])]
    for row in rows:
        lines.append("  ".join([f"{row['path']:<{width}}", *(_figure(row[name]) for name, _ in columns)]))
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return f"{'–':>9}" if value is None else f"{value:>9.4g}"


def _projections(adapter: Adapter, base: Path | None) -> list[dict[str, Any]]:
    rows, moves_base = [], changes_base(adapter.config.init_lora_weights)
    learnt = to_plain(adapter, base) if moves_base and base is not None else adapter
    for key in sorted(filter(is_a, adapter.tensors), key=_by_layer):
        path, given = layer_of(key), adapter.config.for_path(layer_of(key))
        rows.append({"path": path, "A": _norm(adapter.tensors[key]), "B": _norm(adapter.tensors[other_of(key)])})
        if base is not None or not moves_base:  # else it is not known what the matrices began with
            rows[-1]["change"] = given.scaling * product_norm(learnt.tensors[key], learnt.tensors[other_of(key)])
    if base is not None:
        shapes = {f"{layer_of(key)}.weight": _shape(adapter, key) for key in adapter.tensors if is_a(key)}
        norms = _weights(base, shapes, adapter.embeddings)
        for row in rows:
            row["weight"] = norms[f"{row['path']}.weight"]
            row["relative"] = row["change"] / row["weight"] if row["weight"] else None
    return rows


def _whole(adapter: Adapter) -> list[dict[str, Any]]:
    """What is stored besides the LoRA matrices: heads and norms trained whole, biases, rows of tokens."""
    others = {key: array for key, array in adapter.tensors.items() if not is_matrix(key)}
    return [
        {"path": key.removeprefix(PREFIX), "shape": list(array.shape), "norm": _norm(array)}
        for key, array in sorted(others.items())
    ]


def _shape(adapter: Adapter, key: str) -> tuple[int, int]:
    """The shape of the weight that A, with this key, and its B stand beside: [in, out], a head's [out, in]."""
    inputs, outputs = adapter.tensors[key].shape[1], adapter.tensors[other_of(key)].shape[0]
    return (outputs, inputs) if layer_of(key) == "lm_head" else (inputs, outputs)


def _weights(base: Path, shapes: dict[str, tuple[int, int]], tables: dict[str, np.ndarray]) -> dict[str, float]:
    norms = {}
    for name, array in itertools.chain(tables.items(), read_tensors(base)):  # the adapter may bring tables of its own
        if name in shapes and array.shape == shapes[name]:
            norms[name] = _norm(array)
        if name == EMBEDDING and array.shape == shapes.get(HEAD):  # which may be tied to it
            norms.setdefault(HEAD, _norm(array))
    if missing := [name for name in shapes if name not in norms]:
        raise UserError(f"{base} is not this adapter's base: it has no {missing[0]} {list(shapes[missing[0]])}")
    return norms


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))


def _by_layer(path: str) -> list:
    """Layer 10 after layer 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]
