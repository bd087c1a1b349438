"""What a finished run tells those who use it: its base model, its adapter, the task it was trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json
from datasets.example import Task
from gpt2_jittor.config import GPT2Config
from gpt2_jittor.generation_config import GenerationConfig
from gpt2_jittor.hub import locate
from gpt2_jittor.outline import open_model
from gpt2_jittor.precisions import check_precision
from gpt2_jittor.tokenizer import check_sizes, load_tokenizer
from lora.files import check_base, read_adapter
from lora.merging import base_of, generation_of, vocabulary_of
from training.arguments import read_recipe
from training.setup import read_model


@dataclass(frozen=True)
class Finished:
    """A model to use: a folder, its tokenizer, maybe an adapter, and the arguments of its training, if known.

    `classifies`: it tells classes apart; else it is a language model, and `generation` is what its folder says of that.
    """

    directory: Path
    config: GPT2Config
    tokenizer: object
    adapter: Path | None
    arguments: dict[str, Any]
    classifies: bool
    generation: GenerationConfig | None = None

    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer. Raises UserError for what is no token's id."""
        return self.generation.ends(self.tokenizer, self.config.vocab_size)


def find(model: str | None, adapter: Path | None, ignore_base: bool = False) -> Finished:
    """Settles what `--model` and `--adapter` mean together, without importing Jittor.

    An adapter names its base model; `--model` overrides that, with a copy of what it was trained on, or, with
    `ignore_base`, with any model that its tensors fit. A tokenizer in the adapter's folder, where tokens were
    added to it, comes before the model's. Raises UserError for what is missing.
    """
    folder = adapter or (Path(model) if model else None)
    recipe = folder / "arguments.yaml" if folder else None
    values = read_recipe(recipe) if recipe and recipe.is_file() else {}
    stored = read_adapter(adapter) if adapter else None
    if stored:
        directory = base_of(adapter, stored, model)
        check_base(adapter, stored, open_model(directory), ignore_base)
        config, tokenizer, own = vocabulary_of(adapter, stored, directory)
        generation, _ = generation_of(adapter, directory, tokenizer, own)
    else:
        directory = locate(model or "nano")
        config, tokenizer = open_model(directory).config, load_tokenizer(directory)
        check_sizes(tokenizer, config)
        generation = GenerationConfig.from_pretrained(directory)
    architectures = read_json(directory / "config.json").get("architectures") or []
    classifies = any("Classification" in str(name) for name in architectures)
    classifies = classifies or (stored is not None and stored.is_classifier)
    return Finished(directory, config, tokenizer, adapter, values, classifies, generation)


def check_kind(finished: Finished, task: Task, bare: bool = False) -> None:
    """Raises UserError where what was trained cannot do the task: a classifier cannot talk, nor a talker classify.

    `bare`: a language model may stand under a classifier's head that was never trained, to be measured as it is.
    """
    trained = finished.arguments.get("task")
    what = f"{finished.adapter or finished.directory}" + (f" (trained on {trained})" if trained else "")
    if finished.classifies and task.kind != "classify":
        named = "" if trained else ", or name its own --task"
        raise UserError(f"{what} is a classifier, or its base is: {task.name} needs a language model; give one{named}")
    if task.kind == "classify" and not finished.classifies and (finished.adapter or not bare):
        raise UserError(f"{what} is no classifier, which {task.name} needs: train one, or give its run")
    if task.kind == "classify" and finished.classifies and trained not in (None, task.name):
        raise UserError(f"{what} tells other classes apart than {task.name}'s; give another")


def check_weights(int8: bool, precision: str, device: str) -> None:
    """Raises UserError where int8 weights are asked for on CUDA, 16 bits on the CPU, or both together."""
    if int8 and precision != "fp32":
        raise UserError(f"--int8 and --precision {precision} exclude each other: give one")
    check_int8(int8, device)
    check_precision(precision, device)


def check_int8(int8: bool, device: str) -> None:
    """Raises UserError where int8 weights are asked for on CUDA."""
    if int8 and device == "cuda":
        raise UserError("--int8 works on the CPU only: leave it out, or give --device cpu")


def load(finished: Finished, task: Task, int8: bool = False, precision: str = "fp32"):
    """The model, ready for use: base weights with the adapter merged into them, in float32; then in `precision`, or,
    with `int8`, quantised.

    Raises UserError, besides for what cannot be read, for int8 where CUDA is in use.
    """
    from gpt2_jittor.backend import jt
    from lora import load_adapter, merge

    check_int8(int8, "cuda" if jt.flags.use_cuda else "cpu")
    model = read_model(task, finished.directory, finished.config.vocab_size)
    if finished.adapter is not None:
        load_adapter(model, finished.adapter, ignore_base=True)  # `find` has compared it, or was not to
        merge(model)
    if int8:
        from gpt2_jittor.quantized import quantize

        quantize(model)
    return model.freeze().to_precision(precision)
