"""What a finished run tells those who use it: its base model, its adapter, the task it was trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json
from gpt2_jittor.config import GPT2Config
from gpt2_jittor.hub import locate
from gpt2_jittor.tokenizer import check_sizes, load_tokenizer
from training.arguments import read_recipe


@dataclass(frozen=True)
class Finished:
    """A model to use: a folder, its tokenizer, maybe an adapter, and the arguments of its training, if known."""

    directory: Path
    config: GPT2Config
    tokenizer: object
    adapter: Path | None
    arguments: dict[str, Any]


def find(model: str | None, adapter: Path | None) -> Finished:
    """Settles what `--model` and `--adapter` mean together, without importing Jittor.

    An adapter names its base model; `--model` overrides that. Raises UserError for what is missing.
    """
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise UserError(f"{adapter} holds no adapter (adapter_config.json); give the folder of a finished run")
    folder = adapter or (Path(model) if model else None)
    recipe = folder / "arguments.yaml" if folder else None
    values = read_recipe(recipe) if recipe and recipe.is_file() else {}
    if adapter is not None and model is None:
        model = _base_of(adapter, values.get("model"))
    directory = locate(model or "nano")
    config = GPT2Config.from_pretrained(directory)
    tokenizer = load_tokenizer(directory)
    check_sizes(tokenizer, config)
    return Finished(directory, config, tokenizer, adapter, values)


def _base_of(adapter: Path, typed: str | None) -> str:
    """An adapter's base model: the folder that PEFT's file names, as long as it is there, else what was typed."""
    # read here as plain JSON: the package `lora` imports Jittor, which `find` must not
    named = read_json(adapter / "adapter_config.json").get("base_model_name_or_path")
    base = named if isinstance(named, str) and Path(named).is_dir() else typed or named
    if not isinstance(base, str):
        raise UserError(f"{adapter} does not name its base model; give it with --model")
    return base


def load(finished: Finished):
    """The model, ready for use: base weights with the adapter merged into them."""
    from gpt2_jittor.model import GPT2LMHeadModel
    from lora import load_adapter, merge

    model = GPT2LMHeadModel.from_pretrained(finished.directory)
    if finished.adapter is not None:
        load_adapter(model, finished.adapter)
        merge(model)
    return model
