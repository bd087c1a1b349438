"""What is impossible in a `LoraConfig`, value by value. No Jittor here."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from common.terminal import short
from lora.matching import EMBEDDINGS, PROJECTIONS, ending, numbered, within

if TYPE_CHECKING:
    from lora.config import LoraConfig

BIASES = ("none", "all", "lora_only")
TASK_TYPES = ("CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
PARTS = ("q", "k", "v")  # of c_attn's columns
LARGEST_SIZE, LARGEST_FLOAT = 2**31 - 1, 3.4e38  # what a tensor's dimension and a float32 can hold

# starts of PEFT's whose data is not at hand here
NEED_MORE = {
    "loftq": "a quantised base",
    "eva": "activations on data",
    "corda": "activations on data",
    "lora_ga": "gradients on data",
}
STARTS = (True, False, "gaussian", "orthogonal", "pissa", "olora")  # and pissa_niter_N
PISSA_NITER = re.compile(r"pissa_niter_(\d{1,4})")


def is_start(value: object) -> bool:
    """Whether `value` is a way in which the matrices can begin (`lora/starts.py`)."""
    if isinstance(value, str):
        return value in STARTS or PISSA_NITER.fullmatch(value) is not None
    return isinstance(value, bool)


def changes_base(start: bool | str) -> bool:
    """Whether the base's weight gives up what the matrices begin with: in PEFT at every loading, too."""
    return isinstance(start, str) and start.startswith(("pissa", "olora"))


def problems(config: "LoraConfig") -> Iterator[str]:
    """Each impossible value in words, by its field's name."""
    yield from _numbers(config)
    yield from _choices(config)
    yield from _names(config)
    yield from _together(config)
    yield from _faulty_expressions(config)


def _numbers(config: "LoraConfig") -> Iterator[str]:
    yield from _rank("r", config.r)
    yield from _alpha("lora_alpha", config.lora_alpha)
    if not _is_number(config.lora_dropout) or not 0 <= config.lora_dropout < 1:
        yield f"lora_dropout must be at least 0 and below 1, not {short(config.lora_dropout)}"
    for field, check in (("rank_pattern", _rank), ("alpha_pattern", _alpha)):
        patterns = getattr(config, field)
        if not isinstance(patterns, dict) or not all(isinstance(key, str) for key in patterns):
            yield f"{field} must map names to numbers, not be {short(patterns)}"
            continue
        for key, value in patterns.items():
            yield from check(f"{field} {short(key)}", value)
    layers = config.layers_to_transform
    if layers is not None and not _is_numbers([layers] if isinstance(layers, int) else layers):
        yield f"layers_to_transform must be numbers of blocks, not {short(layers)}"
    tokens = config.trainable_token_indices
    if tokens is not None and not _is_ids(tokens):
        yield f"trainable_token_indices must be a list of token ids, each of them once, not {short(tokens)}"


def _choices(config: "LoraConfig") -> Iterator[str]:
    if config.bias not in BIASES:
        yield f"bias must be one of {', '.join(BIASES)}, not {short(config.bias)}"
    if isinstance(config.init_lora_weights, str) and config.init_lora_weights in NEED_MORE:
        start = config.init_lora_weights
        yield f"init_lora_weights {start} needs {NEED_MORE[start]}: begin in PEFT, and train its adapter on here"
    elif not is_start(config.init_lora_weights):
        named = ", ".join(start for start in STARTS if isinstance(start, str))
        yield f"init_lora_weights must be true, false, {named} or pissa_niter_16, not {short(config.init_lora_weights)}"
    for field in ("use_rslora", "use_dora", "lora_bias"):
        if not isinstance(getattr(config, field), bool):
            yield f"{field} must be true or false, not {short(getattr(config, field))}"
    if config.task_type is not None and config.task_type not in TASK_TYPES:
        yield f"task_type must be one of {', '.join(TASK_TYPES)}, not {short(config.task_type)}"


def _names(config: "LoraConfig") -> Iterator[str]:
    if not config.target_modules:
        yield f"target_modules is empty; GPT-2 has {', '.join((*PROJECTIONS, *EMBEDDINGS))}, lm_head"
    elif not isinstance(config.target_modules, str) and not _is_names(config.target_modules):
        yield f"target_modules must be names or one regular expression, not {short(config.target_modules)}"
    for field in ("exclude_modules", "layers_pattern"):
        value = getattr(config, field)
        if value is not None and not isinstance(value, str) and not _is_names(value):
            yield f"{field} must be names or one regular expression, not {short(value)}"
    if config.modules_to_save is not None and not _is_names(config.modules_to_save):
        yield f"modules_to_save must be a list of names, not {short(config.modules_to_save)}"
    if not isinstance(config.base_model_name_or_path, str | None):
        yield f"base_model_name_or_path must be a name or a folder, not {short(config.base_model_name_or_path)}"
    parts = config.qkv
    if parts is not None and (not _is_names(parts) or not parts or len({*parts} & {*PARTS}) < len(list(parts))):
        yield f"qkv must be some of {', '.join(PARTS)}, each of them once, not {short(parts)}"


def _together(config: "LoraConfig") -> Iterator[str]:
    """What PEFT refuses to have together, and what has no meaning together."""
    if config.layers_to_transform is not None and isinstance(config.target_modules, str):
        yield "layers_to_transform needs names as target_modules: a regular expression says the layers itself"
    if config.layers_pattern and config.layers_to_transform is None:
        yield "layers_pattern says where layers_to_transform finds a block's number: give that as well"
    if config.lora_bias is True:
        if config.use_dora is True:
            yield "lora_bias and use_dora exclude each other: use one of the two"
        if not isinstance(config.init_lora_weights, bool):
            yield f"lora_bias goes with init_lora_weights true or false, not {short(config.init_lora_weights)}"
    if config.init_lora_weights == "orthogonal":
        ranks = {"r": config.r} | (config.rank_pattern if isinstance(config.rank_pattern, dict) else {})
        if odd := [name for name, rank in ranks.items() if isinstance(rank, int) and rank % 2]:
            yield f"init_lora_weights orthogonal needs even ranks; {short(odd[0])} is {ranks[odd[0]]}"
    if config.qkv is not None and (config.rank_pattern or config.alpha_pattern):
        yield "qkv gives each part rank r: leave rank_pattern and alpha_pattern out"
    if config.qkv is not None and config.use_dora is True:
        yield "qkv and use_dora exclude each other: a magnitude is trained of each of c_attn's outputs"
    if config.qkv is not None and changes_base(config.init_lora_weights):
        yield (
            f"qkv cannot begin with a part of the base, as init_lora_weights {config.init_lora_weights} does: "
            "PEFT's file has no word for it"
        )


def _faulty_expressions(config: "LoraConfig") -> Iterator[str]:
    expressions = []
    for field in ("target_modules", "exclude_modules"):
        value = getattr(config, field)
        if isinstance(value, str):
            expressions.append((field, value, value))
    pattern = config.layers_pattern
    given = [pattern] if isinstance(pattern, str) else pattern
    for field, names, form in (
        ("modules_to_save", config.modules_to_save, within),
        ("layers_pattern", given, numbered),
        ("rank_pattern", _keys(config.rank_pattern), ending),
        ("alpha_pattern", _keys(config.alpha_pattern), ending),
    ):
        if _is_names(names):
            expressions += [(field, name, form(name)) for name in names]
    for field, value, expression in expressions:
        try:
            re.compile(expression)
        except (re.error, OverflowError, RecursionError) as error:
            yield f"{field} {short(value)} is no regular expression ({error})"


def _keys(patterns: Any) -> list | None:
    return list(patterns) if isinstance(patterns, dict) else None


def _rank(name: str, value: object) -> Iterator[str]:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        yield f"{name} must be a whole number of at least 1, not {short(value)}"
    elif value > LARGEST_SIZE:
        yield f"{name} must be at most {LARGEST_SIZE}"


def _alpha(name: str, value: object) -> Iterator[str]:
    if not _is_number(value) or value <= 0:
        yield f"{name} must be positive, not {short(value)}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_FLOAT


def _is_names(value: object) -> bool:
    return isinstance(value, list | tuple | set) and all(isinstance(name, str) for name in value)


def _is_ids(value: object) -> bool:
    return _is_numbers(value) and len(set(value)) == len(value)


def _is_numbers(value: object) -> bool:
    if not isinstance(value, list | tuple) or not value:
        return False
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in value)
    return whole and all(0 <= number <= LARGEST_SIZE for number in value)
