"""What can be done with a finished adapter, PEFT's or one of ours.

python -m lora merge --adapter runs/mine --output merged          # one folder for transformers
python -m lora inspect --adapter runs/mine                        # what is in it, and how far it moved the weights
python -m lora combine --adapter runs/a runs/b --weights 0.7 0.3 --output both    # a weighted sum, exactly
python -m lora convert --adapter runs/pissa --output plain        # PiSSA or OLoRA as a plain adapter
python -m lora export --adapter runs/mine --output mine.gguf      # for llama.cpp and Ollama: merged, or --adapter-only
"""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.command import Parser, run_command
from common.errors import UserError
from common.options import option_name

if TYPE_CHECKING:
    from lora.files import Adapter
    from lora.source import ModelSource


def parse() -> argparse.Namespace:
    """The command, as `command`, and its options."""
    parser = Parser(prog="python -m lora", description=__doc__)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="merge | inspect | combine | convert | export"
    )
    model_help = "the base model, instead of the one that the adapter names"
    ignore = {"action": "store_true", "help": "go on where the base is another than the adapter was trained on"}

    merge = commands.add_parser("merge", help="write base and adapter as one model for transformers")
    merge.add_argument("--adapter", type=Path, required=True, metavar="FOLDER")
    merge.add_argument("--model", metavar="BASE", help=model_help)
    merge.add_argument("--ignore-base", **ignore)
    merge.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="new, or empty")
    merge.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    merge.add_argument("--labels", metavar="A,B,C", help="a classifier's classes (LABEL_0, LABEL_1 …)")
    merge.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")

    inspect = commands.add_parser("inspect", help="show settings, sizes and norms")
    inspect.add_argument("--adapter", type=Path, required=True, metavar="FOLDER")
    inspect.add_argument("--model", metavar="BASE", help=model_help)
    inspect.add_argument("--ignore-base", **ignore)
    inspect.add_argument("--json", action="store_true", help="as JSON")

    combine = commands.add_parser("combine", help="write a weighted sum of adapters as one adapter")
    several = {"nargs": "+", "action": "extend", "required": True}
    combine.add_argument("--adapter", type=Path, metavar="FOLDER", **several)
    combine.add_argument("--weights", type=float, metavar="W", help="one for each adapter", **several)
    combine.add_argument("--ignore-base", **ignore)
    combine.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="new, or empty")

    convert = commands.add_parser("convert", help="write an adapter that began as PiSSA or OLoRA as a plain one")
    convert.add_argument("--adapter", type=Path, required=True, metavar="FOLDER")
    convert.add_argument("--model", metavar="BASE", help=model_help)
    convert.add_argument("--ignore-base", **ignore)
    convert.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="new, or empty")

    export = commands.add_parser("export", help="write one file for llama.cpp and Ollama")
    export.add_argument("--adapter", type=Path, metavar="FOLDER")
    export.add_argument("--model", metavar="BASE", help=f"{model_help}; or a model alone")
    export.add_argument("--ignore-base", **ignore)
    export.add_argument("--adapter-only", action="store_true", help="the adapter alone, for llama.cpp's --lora")
    export.add_argument("--output", type=Path, required=True, metavar="FILE.gguf")
    export.add_argument("--format", choices=("gguf",), default="gguf")
    export.add_argument("--dtype", choices=("f32", "f16", "q8_0"), default="f32", help="of the matrices")
    return parser.parse_args()


def merge(arguments: argparse.Namespace) -> None:
    """Writes base and adapter as one model. Raises UserError for what is wrong before anything is written."""
    from datasets.tasks import TASKS
    from gpt2_jittor.runtime import runtime
    from lora.merging import check_empty, plan, write

    check_empty(arguments.output)
    labels = None if arguments.labels is None else [label.strip() for label in arguments.labels.split(",")]
    trained_labels = {name: task.labels for name, task in TASKS.items()}
    source = plan(arguments.adapter, arguments.model, labels, arguments.ignore_base, trained_labels)
    runtime.prepare(arguments.device)
    write(source, arguments.output, arguments.dtype)
    print(f"{arguments.output}: {source.directory} with {source.folder} merged into it, {arguments.dtype}")


def inspect(arguments: argparse.Namespace) -> None:
    """Prints what an adapter holds. Without its base at hand, the norms relative to it are left out, with a note."""
    from gpt2_jittor.checkpoint.stored import open_model
    from lora.files import check_base, read_adapter
    from lora.inspection import describe
    from lora.inspection import inspect as look
    from lora.source import base_of, run_arguments

    folder = arguments.adapter
    adapter = read_adapter(folder)
    if arguments.model is None:
        os.environ["HF_HUB_OFFLINE"] = "1"  # a look at an adapter downloads nothing
    try:
        base = open_model(base_of(folder, adapter, {} if arguments.model else run_arguments(folder), arguments.model))
        check_base(folder, adapter, base, arguments.ignore_base)
    except UserError as error:
        if arguments.model:
            raise
        base = None
        print(f"note: without the base's norms: {error.with_names(option_name)}", file=sys.stderr)
    summary = look(folder, base and base.directory)
    print(json.dumps(summary, indent=2, ensure_ascii=False) if arguments.json else describe(summary))


def combine(arguments: argparse.Namespace) -> None:
    """Writes the weighted sum of adapters. Raises UserError where they do not go together."""
    from gpt2_jittor.checkpoint.tokenizer import load_tokenizer, save_tokenizer
    from lora import combination
    from lora.files import read_adapter, write_adapter
    from lora.merging import check_empty
    from lora.source import has_tokenizer

    names = [str(folder) for folder in arguments.adapter]
    if len(set(names)) < len(names):
        raise UserError("--adapter: a folder is given twice; add its weights up")
    if len(arguments.weights) != len(names):
        raise UserError(f"--weights: {len(names)} adapters need {len(names)} weights, not {len(arguments.weights)}")
    check_empty(arguments.output)
    adapters = {str(folder): _with_own_tables(read_adapter(folder), folder) for folder in arguments.adapter}
    common = common_arguments(arguments.adapter)
    together = combination.combine(adapters, dict(zip(names, arguments.weights, strict=True)), arguments.ignore_base)
    if together.config.base_model_name_or_path is None:
        print("note: the adapters name no common base model; give it with --model", file=sys.stderr)
    write_adapter(arguments.output, together.config, together.stored, together.base)
    if has_tokenizer(arguments.adapter[0]):
        save_tokenizer(load_tokenizer(arguments.adapter[0]), arguments.output)
    write_arguments(arguments.output, common)
    print(f"{arguments.output}: {len(names)} adapters as one of rank {together.config.r}")


def _with_own_tables(adapter: "Adapter", folder: Path) -> "Adapter":
    """The adapter without tables that are its base's, where that is at hand."""
    from gpt2_jittor.checkpoint.stored import open_model
    from lora.source import base_of, run_arguments
    from lora.whole import beside

    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded for that
    with contextlib.suppress(UserError):
        return beside(adapter, open_model(base_of(folder, adapter, run_arguments(folder), None)))
    return adapter


def convert(arguments: argparse.Namespace) -> None:
    """Writes the plain adapter, and of a run what its folder says besides. Raises UserError for another adapter."""
    from gpt2_jittor.checkpoint.tokenizer import save_tokenizer
    from lora.convert import to_plain
    from lora.files import write_adapter
    from lora.merging import check_empty
    from lora.source import find, has_tokenizer

    check_empty(arguments.output)
    source = find(arguments.model, arguments.adapter, arguments.ignore_base)
    plain = to_plain(source.adapter, source.directory)
    write_adapter(arguments.output, plain.config, plain.stored, plain.base)
    if has_tokenizer(arguments.adapter):
        save_tokenizer(source.tokenizer, arguments.output)
    write_arguments(arguments.output, common_arguments([arguments.adapter]))
    print(f"{arguments.output}: {arguments.adapter} as a plain adapter of rank {plain.config.r}")


def export(arguments: argparse.Namespace) -> None:
    """Writes a GGUF file. Raises UserError for what is wrong before anything is written."""
    from lora import export, gguf_adapter

    output, dtype = arguments.output, arguments.dtype
    if arguments.adapter_only and arguments.adapter is None:
        raise UserError("--adapter-only: give the adapter with --adapter")
    if arguments.adapter_only and dtype not in gguf_adapter.DTYPES:
        raise UserError(f"--dtype {dtype} is for models; an adapter is written as {' or '.join(gguf_adapter.DTYPES)}")
    source = export.plan(output, arguments.model, arguments.adapter, arguments.ignore_base)
    if arguments.adapter_only:
        gguf_adapter.write_adapter(gguf_adapter.plan(source), output, dtype)
        what = f"{source.folder} alone, for {source.directory}"
    else:
        export.write(source, output, dtype, chat_template(source))
        merged = f" with {source.folder} merged into it" if source.adapter else ""
        what = f"{source.directory}{merged}"
    print(f"{output}: {what}, {dtype}")


def chat_template(source: "ModelSource") -> str | None:
    """How turns are opened and closed, in Jinja: the tokenizer's own template, else ours where a run learnt to chat."""
    from datasets import tasks
    from datasets.turns import ours

    own = source.tokenizer.chat_template
    own = own.get("default") if isinstance(own, dict) else own
    if own or source.task is None or not tasks.find(source.task, source.arguments).kind.remembers:
        return own
    return ours(source.tokenizer)


def common_arguments(folders: list[Path]) -> dict[str, Any]:
    """What all the runs' arguments.yaml agree on, task and model above all, so that the sum is used as they are."""
    from lora.source import run_arguments

    first, *others = (run_arguments(folder) for folder in folders)
    common = {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
    common.pop("output_dir", None)
    return common


def write_arguments(folder: Path, values: dict[str, Any]) -> None:
    """Writes what runs agree on as a run's arguments, where it says what they were trained on."""
    import yaml

    from common.files import write_text
    from lora.source import ARGUMENTS

    if values.get("task"):
        write_text(folder / ARGUMENTS, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def main() -> None:
    """Runs the command that was typed."""
    arguments = parse()
    {"merge": merge, "inspect": inspect, "combine": combine, "convert": convert, "export": export}[arguments.command](
        arguments
    )


if __name__ == "__main__":
    run_command(main)
