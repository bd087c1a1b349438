"""LoRA's settings out of a run's arguments."""

from collections.abc import Sequence
from typing import Any

from common.errors import ErrorCollector, ParameterError
from gpt2_jittor.checkpoint.config import GPT2Config
from lora.config import LoraConfig
from lora.matching import targets_of
from lora.problems import NEED_MORE, PARTS, STARTS, is_start
from training.arguments import TrainingArguments

DEFAULT_TARGETS = ["c_attn", "c_proj", "c_fc"]
POSITIONS = ("transformer.wpe",)  # of what can be a target, the one that always stays float32


def adapter_config(
    arguments: TrainingArguments, classifies: bool, added: Sequence[int] = (), base: str | None = None
) -> LoraConfig:
    """The settings of a run's adapter; of a classifier the head is trained whole.

    `added` are the tokens whose rows are trained, `base` is what PEFT finds the base model by.
    Raises UserError for what is impossible, alone or together.
    """
    names, parts = _targets(arguments.lora_targets or DEFAULT_TARGETS)
    whole = ["score"] if classifies else []
    start = {"default": True, "random": False}.get(arguments.lora_init, arguments.lora_init)
    if not is_start(start) and start not in NEED_MORE:
        ways = ", ".join(["default", "random", *(way for way in STARTS if isinstance(way, str)), "pissa_niter_16"])
        raise ParameterError("{lora_init} must be one of {0}, not {1!r}", ways, arguments.lora_init)
    return LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=names,
        exclude_modules=names_or_expression(arguments.lora_exclude),
        layers_to_transform=arguments.lora_layers,
        rank_pattern=_numbers("lora_rank_pattern", arguments.lora_rank_pattern, int),
        alpha_pattern=_numbers("lora_alpha_pattern", arguments.lora_alpha_pattern, float),
        bias=arguments.lora_bias,
        modules_to_save=[*whole, *(arguments.lora_modules_to_save or ())] or None,
        use_rslora=arguments.lora_rslora,
        use_dora=arguments.lora_dora,
        lora_bias=arguments.lora_b_bias,
        init_lora_weights=start,
        trainable_token_indices=list(added) or None,
        base_model_name_or_path=base,
        task_type="SEQ_CLS" if classifies else "CAUSAL_LM",
        qkv=parts,
    )


def check_adapter(arguments: TrainingArguments, classifies: bool, model: GPT2Config) -> None:
    """Raises UserError, with all that is wrong, where the model cannot have this adapter."""
    errors, added = ErrorCollector(), [model.vocab_size] if arguments.added_tokens else []
    with errors.collect():
        _check_rank("lora_r", arguments.lora_r, model)
    with errors.collect():
        config = adapter_config(arguments, classifies, added)
        kept = [path for path in targets_of(model.n_layer, head=not classifies) if config.saves(path)]
        if arguments.base != "fp32" and (whole := [path for path in kept if path not in POSITIONS]):
            template = (
                "{lora_modules_to_save} trains {0} whole, which {base} {value} keeps in fewer bits: leave one out"
            )
            raise ParameterError(template, whole[0], value=arguments.base)
        for rank in config.rank_pattern.values():
            _check_rank("lora_rank_pattern", rank, model)
        config.check_targets(targets_of(model.n_layer, head=not classifies))
    errors.raise_all()


def _check_rank(parameter: str, rank: int, model: GPT2Config) -> None:
    if rank > model.n_embd:
        template = f"{{{parameter}}} {{0}} is larger than the model's width, {{1}}: lower it"
        raise ParameterError(template, rank, model.n_embd)


def _targets(given: list[str]) -> tuple[list[str] | str, tuple[str, ...] | None]:
    """`target_modules`, and the parts of c_attn that `q`, `k` and `v` name."""
    parts = tuple(part for part in PARTS if part in given)
    if not parts:
        return names_or_expression(given), None
    names = [name for name in given if name not in PARTS]
    if any(name.endswith("c_attn") for name in names):
        raise ParameterError(
            "{lora_targets}: {0} are parts of c_attn; name them, or all of it, not both", ", ".join(parts)
        )
    return ["c_attn", *names], parts


def names_or_expression(given: list[str] | None) -> list[str] | str | None:
    """A single name with characters that no module's name has is a regular expression."""
    if given and len(given) == 1 and not given[0].replace(".", "_").isidentifier():
        return given[0]
    return given


def _numbers(parameter: str, given: list[str] | None, kind: type) -> dict[str, Any]:
    """`c_attn=16` as {"c_attn": 16}."""
    numbers = {}
    for text in given or ():
        name, _, value = text.rpartition("=")
        try:
            if not name:
                raise ValueError("nothing stands before the number")
            if name in numbers:
                raise ParameterError(f"{{{parameter}}} names {{0}} twice", name)
            numbers[name] = kind(value)
        except ValueError:
            raise ParameterError(f"{{{parameter}}} takes name=number, such as c_attn=16, not {{0!r}}", text) from None
    return numbers
