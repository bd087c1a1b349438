"""Measures a model on a task, each figure with its 95 % interval: loss, perplexity, and what the task is judged by.

python evaluate.py --adapter runs/dailydialog-nano-lora                    # the base stands beside it
python evaluate.py --task squad --data-dir data/squad --adapter RUN --predictions answers.json
python evaluate.py --task emotion --data-dir data/emotion --adapter RUN    # and a confusion matrix, RUN/confusion.png
python evaluate.py --task dailydialog --model nano --loss-only --json
"""

import dataclasses
import json
import math
import sys
import time
from pathlib import Path

from common.command import Parser, run_command
from common.errors import UserError
from common.files import json_text, write_text, writing_to
from datasets import registry
from datasets.encode import report
from datasets.example import SPLITS, Dataset, Task
from gpt2_jittor.demand import check_forward
from gpt2_jittor.precisions import PRECISIONS
from gpt2_jittor.weights import open_tensors
from lora.files import SCORE

INT8 = "int8"  # the row of what was asked for with int8 weights
NEW_TOKENS = {"qa": 32, "chat": 40, "instruct": 128}  # in a generated answer, at most


def parse():
    """The options. Raises UserError for a number below 1."""
    parser = Parser(prog="evaluate.py", description=__doc__)
    parser.add_argument("--task", help="what to measure on; else what the run was trained on")
    parser.add_argument("--data-dir", help="local data, or `sample`; else the run's own, else the hub's copy")
    parser.add_argument("--split", default="test", choices=SPLITS, help="(default: test)")
    parser.add_argument("--model", help="base model: a name or a folder; else the adapter's own, else nano")
    parser.add_argument("--adapter", type=Path, metavar="RUN", help="a run's folder; the base is measured beside it")
    parser.add_argument("--ignore-base", action="store_true", help="measure the adapter on another base than its own")
    parser.add_argument("--max-length", type=int, help="longest example in tokens; else the run's own, else 512")
    parser.add_argument("--limit", type=int, help="measure on this many examples; else on all")
    parser.add_argument("--batch-size", type=int, default=16, help="(default: 16)")
    parser.add_argument("--loss-only", action="store_true", help="generate nothing: loss, perplexity and classes alone")
    parser.add_argument("--max-new-tokens", type=int, help="longest generated answer; else 32 (qa), 40 (chat), 128")
    parser.add_argument("--num-beams", type=int, default=1, help="beam search instead of greedy answers (default: 1)")
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE", help="write what the model said: SQuAD's own format"
    )
    parser.add_argument("--confusion", type=Path, metavar="FILE.png", help="draw who was taken for whom")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--int8", action="store_true", help="weights in 8 bits, measured beside the float32 ones")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="of matrix products (default: fp32)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    given = parser.parse_args()
    for name in ("limit", "batch_size", "max_new_tokens", "num_beams"):
        if (value := getattr(given, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    return given


def main() -> None:
    """Measures, then prints the figures and writes what was asked for. The model is read last."""
    given = parse()
    from gpt2_jittor import runtime
    from inference import finished
    from training.setup import longest, read_split

    finished.check_weights(given.int8, given.precision, given.device)
    found = finished.find(given.model, given.adapter, given.ignore_base)
    run = found.arguments
    task = registry.task(given.task or run.get("task", "dailydialog"))
    finished.check_kind(found, task, bare=True)
    check_outputs(given, task)
    how_to_answer = decoding(given, task, found)
    data_dir = given.data_dir or (run.get("data_dir") if task.name == run.get("task") else None)
    length = longest(run.get("max_length") if given.max_length is None else given.max_length, found.config)
    dataset = read_split(task, given.split, data_dir, given.limit)
    data = task.encode(dataset.examples, found.tokenizer, length)
    check_forward(found.config, min(given.batch_size, len(data)), max(data.lengths), "{batch_size}")
    if how_to_answer:
        how_to_answer.check(found.config, len(data))
    print(report(dataset, data), file=sys.stderr)
    finished.check_weights(given.int8, given.precision, runtime.prepare(given.device))

    from inference.measure import measure, trivial

    rows, seconds = {}, {}
    for name, (contestant, int8) in contestants(found, given.int8).items():
        started = time.perf_counter()
        model = finished.load(contestant, task, int8, given.precision)
        measured = measure(model, found.tokenizer, task, dataset, data, given.batch_size, how_to_answer, length)
        rows[name], seconds[name] = measured.figures, time.perf_counter() - started
    if measured.unasked:
        print(f"{measured.unasked:,} prompts are too long; their answer counts as empty", file=sys.stderr)
    how, rows["trivial"] = trivial(task, dataset, data)
    said = notes(rows, task.kind == "classify" and SCORE not in open_tensors(found.directory))
    write_predictions(given, task, measured)
    draw_confusion(given, found, task, measured)
    show(given, task, dataset, data, rows, seconds, how, said)  # last: nobody may be there to read it


def contestants(found, int8: bool) -> dict:
    """What is measured side by side, and whether in int8; the last one is what was asked for."""
    if found.adapter is None:
        several = {"model": (found, False)}
    else:
        several = {"base": (dataclasses.replace(found, adapter=None, classifies=False), False)}
        several["adapter"] = (found, False)
    return several | {INT8: (found, True)} if int8 else several


def decoding(given, task: Task, found):
    """How answers are generated, None where they are not. Of what the model's folder says its end tokens alone count:
    figures of different models are compared.
    """
    from inference.answers import Decoding

    if given.loss_only or task.kind not in NEW_TOKENS:
        return None
    new_tokens = given.max_new_tokens or NEW_TOKENS[task.kind]
    return Decoding(new_tokens, num_beams=given.num_beams, batch_size=given.batch_size, end_ids=found.ends())


def check_outputs(given, task: Task) -> None:
    """Raises UserError for a file that the task does not make."""
    if given.confusion and task.kind != "classify":
        raise UserError(f"--confusion needs classes, {task.name} has none: leave it out")
    if given.predictions and (task.kind == "text" or (given.loss_only and task.kind != "classify")):
        raise UserError(f"--predictions: nothing is predicted for {task.name} here: leave it out")
    if given.confusion and given.confusion.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"--confusion must be a .png, .pdf or .svg file, unlike {given.confusion}")
    for option, path in (("--predictions", given.predictions), ("--confusion", given.confusion)):
        if path is not None and path.is_dir():
            raise UserError(f"{option} {path} is a folder: name a file in it")


def show(given, task: Task, dataset: Dataset, data, rows: dict, seconds: dict, how: str, said: list[str]) -> None:
    """Prints the figures, as a table or as JSON, with what was `said` of them."""
    if given.json:
        told = {"task": task.name, "split": given.split, "examples": len(dataset), "scored_tokens": data.scored}
        told["precision"] = given.precision
        for name, figures in rows.items():
            told[name] = {key: round(figure.value, 5) for key, figure in figures.items()}
            told[name]["intervals"] = {key: _interval(figure) for key, figure in figures.items()}
            if name in seconds:
                told[name]["seconds"] = round(seconds[name], 1)
        print(json.dumps(told | {"trivial_is": how, "notes": said}, ensure_ascii=False))
        return
    where = Path(dataset.examples[0].source.rpartition(":")[0])
    products = "" if given.precision == "fp32" else f", in {given.precision}"
    print(f"{task.name} {given.split}, {len(dataset):,} examples of {where}{products}; in brackets, the 95 % interval")
    names = list(dict.fromkeys(key for figures in rows.values() for key in figures))
    columns = [["", *names, "seconds"]]
    for contestant, figures in rows.items():
        cells = [_cell(figures[key]) if key in figures else "" for key in names]
        took = f"{seconds[contestant]:,.1f}" if contestant in seconds else ""
        columns.append([contestant, *cells, took])
    widths = [max(map(len, column)) for column in columns]
    for name, *cells in zip(*columns, strict=True):
        line = [f"{name:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))]
        print("   ".join(line).rstrip())
    print("; ".join([f"trivial: {how}", *said]))


def notes(rows: dict, headless: bool) -> list[str]:
    """What a reader of the figures must know. `headless`: the model itself has no classifier's head."""
    from inference import metrics

    said = []
    if headless:
        said.append(f"{next(iter(rows))}: under a head that was never trained")
    if INT8 in rows:
        of_floats = rows["adapter" if "adapter" in rows else "model"]["perplexity"].value
        said.append(f"int8: perplexity {rows[INT8]['perplexity'].value / of_floats - 1:+.3%}")
    if any("bleu" in figures for figures in rows.values()):
        said.append(f"bleu: {metrics.bleu_signature()}")
    if any("f1" in figures for figures in rows.values()):
        said.append("loss: where a context is too long, on the part around the answer")
    return said


def _interval(figure) -> list[float] | None:
    return None if math.isnan(figure.low) else [round(figure.low, 5), round(figure.high, 5)]


def _cell(figure) -> str:
    value = f"{figure.value:,.3f}"
    return value if math.isnan(figure.low) else f"{value} [{figure.low:,.3f}, {figure.high:,.3f}]"


def write_predictions(given, task: Task, measured) -> None:
    """SQuAD's own format for SQuAD; else a JSON object a line, in the data's order."""
    if not given.predictions:
        return
    said = [task.labels[p] if task.kind == "classify" else p for p in measured.predictions]
    if task.kind == "qa":
        text = json_text({e.name: text for e, text in zip(measured.examples, said, strict=True)})
    else:
        lines = [{"source": e.source, "prediction": text} for e, text in zip(measured.examples, said, strict=True)]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with writing_to(given.predictions) as temporary:
        write_text(temporary, text)
    print(f"wrote {given.predictions}", file=sys.stderr)


def draw_confusion(given, found, task: Task, measured) -> None:
    """Who was taken for whom, as a picture: where it was asked for, else in the run's folder."""
    run = found.adapter or (found.directory if found.arguments else None)
    output = given.confusion or (run / "confusion.png" if run else None)
    if task.kind != "classify" or output is None:
        return
    from inference import metrics, picture
    from training.folder import check_own

    if not given.confusion:
        check_own(run, [output.name])

    matrix = metrics.confusion(measured.gold, measured.predictions, len(task.labels))
    picture.draw_confusion(matrix, task.labels, output, f"{task.name} {given.split}")
    print(f"wrote {output}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
