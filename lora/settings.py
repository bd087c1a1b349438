"""`adapter_config.json`, as PEFT of any version wrote it: the fields that `LoraConfig` has, and those that say nothing.

No Jittor here.
"""

import re
from collections.abc import Collection
from typing import Any

from common.errors import UserError
from common.terminal import short
from lora.matching import EMBEDDINGS, listed
from lora.problems import is_start

# initialisations with which PEFT rewrites the base's weights by what is not at hand when an adapter is read
REWRITES = ("loftq", "corda", "lora_ga")
# what PEFT's file says besides, and what the numbers of an adapter that was stored do not depend on
HARMLESS = (
    *("auto_mapping", "inference_mode", "merge_weights", "peft_type", "peft_version", "revision", "runtime_config"),
    "fan_in_fan_out",  # PEFT sees what the layer is
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config"),  # how the matrices were drawn
    *("megatron_core", "qalora_group_size"),  # they belong to fields that are refused
    "ensure_weight_tying",  # but with layers that are saved whole, and with LoRA on the embedding or the head
)
# fields that PEFT got later: to an older one their very names are an error, so they are written where they are used;
# all others are as old as 0.3, and always written
NEWER = (
    *("trainable_token_indices", "use_rslora", "use_dora", "lora_bias", "exclude_modules"),
    *("rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern"),
)


def settings_of(values: dict[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Of PEFT's file, the values of a `LoraConfig`'s `fields`. Raises UserError, by name, for what changes the result
    and is not known here."""
    if values.get("peft_type") != "LORA":
        raise UserError(f"peft_type is {short(values.get('peft_type'))}; only LORA adapters can be used")
    unknown = sorted(
        name
        for name, value in values.items()
        if name not in fields and name not in HARMLESS and not says_nothing(value)
    )
    if unknown:
        raise UserError(f"{listed(unknown)} is not supported and may change the result; use a plain LoRA adapter")
    settings = {name: values[name] for name in fields & values.keys()}
    for name in ("target_modules", "use_rslora"):  # without a value they are PEFT's default
        if settings.get(name, ...) is None:
            del settings[name]
    for name in {*NEWER} - {"use_rslora", "trainable_token_indices"}:
        if says_nothing(settings.get(name)):
            settings.pop(name, None)
    if "layers_to_transform" not in settings:
        settings.pop("layers_pattern", None)
    _check_start(settings)
    settings["trainable_token_indices"] = _tokens(settings.get("trainable_token_indices"))
    return settings


def says_nothing(value: object) -> bool:
    """Whether a field's value is PEFT's "not used": false, null or empty. 0 is not, as a layer's number."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def _check_start(settings: dict[str, Any]) -> None:
    """Leaves out how the matrices were drawn, where those who read them need not know it."""
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(REWRITES):
        raise UserError(f"init_lora_weights {short(start)} changes the base model's weights: merge it in PEFT first")
    if isinstance(start, str) and re.match("pissa|olora", start.lower()):
        settings["init_lora_weights"] = start.lower()  # PEFT takes either for olora; what is no such name is refused
    elif not is_start(start) or start == "orthogonal":
        settings.pop("init_lora_weights", None)


def _tokens(value: object) -> object:
    """PEFT's field: a list of ids, or ids for each embedding by its name, of which this project knows one."""
    if value in (None, [], {}):
        return None
    if not isinstance(value, dict):
        return value
    name, *others = value
    # PEFT asks for a path's end here too; "e" would be both
    token, position = (f"transformer.{embedding}" for embedding in EMBEDDINGS)
    if others or not token.endswith(name) or position.endswith(name):
        raise UserError(f"trainable_token_indices for {listed(value)}; only the token embedding's (wte) are supported")
    return value[name]
