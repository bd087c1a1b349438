"""A model, with or without an adapter merged into it, as one GGUF file for llama.cpp. Only merging needs Jittor."""

from pathlib import Path

from common.errors import ParameterError, UserError
from gpt2_jittor.checkpoint.gguf import check_config, write_model
from gpt2_jittor.checkpoint.gguf_vocabulary import vocabulary
from gpt2_jittor.checkpoint.stored import SCORE
from lora.source import ModelSource, find, has_tokenizer


def plan(output: Path, model: str | None, adapter: Path | None, ignore_base: bool = False) -> ModelSource:
    """What is to be written, without Jittor: `find`. Raises UserError for what llama.cpp has no model for."""
    if model is None and adapter is None:
        raise ParameterError("nothing to export: give {model}, {adapter} or both")
    if output.is_dir():
        raise ParameterError("{output} {0} is a folder; name a file in it, such as {1}", output, output / "model.gguf")
    source = find(model, adapter, ignore_base)
    if source.classifies:
        raise UserError(f"{source.folder} is a classifier, and llama.cpp's GPT-2 only writes text: use it here")
    check_config(source.config, source.directory)
    return source


def write(source: ModelSource, output: Path, dtype: str = "f32", template: str | None = None) -> None:
    """Writes a model that was planned, its adapter merged in float32. `template`: its chat's, in Jinja.

    Raises UserError for a tokenizer that llama.cpp has not, where a tensor does not fit, and where the file cannot be
    written.
    """
    rows = max(source.config.vocab_size, len(source.tokenizer))
    said_by = source.folder if has_tokenizer(source.folder) else source.directory
    fields = vocabulary(source.tokenizer, rows, source.ends(), template, said_by)
    if source.adapter is None:
        config, tensors = source.config, {name: view for name, view in source.base.tensors.items() if name != SCORE}
    else:
        from gpt2_jittor.runtime import runtime

        runtime.prepare("cpu")
        from lora.load import load

        config, tensors = load(source).stored()
    write_model(output, config, tensors, fields, dtype, source.directory)
