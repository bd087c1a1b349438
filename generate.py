"""Talks with a model, asks it, lets it classify, or lets it continue a text.

python generate.py --adapter runs/dailydialog-nano-lora                 # chat; `exit` ends it
python generate.py --adapter RUN --prompt "Do you like coffee?"         # one answer
python generate.py --adapter RUN --context "…" --question "…"           # one answer about a text
python generate.py --adapter RUN --input prompts.jsonl --output answers.jsonl
python generate.py --adapter RUN --prompt "Hello!" --greedy --json      # for scripts
python generate.py --model gpt2 --prompt "The capital of France"        # no adapter: continues the text
"""

import sys
from pathlib import Path

from common.command import Parser, run_command
from common.errors import UserError
from datasets import registry
from datasets.example import Task
from gpt2_jittor.precisions import PRECISIONS
from generation.sampling import check_length_penalty
from inference.answers import Decoding
from inference.options import DRAWING, choose
from generation.requests import read_requests, typed_request, typed_text

# the task whose prompts a mode uses, where the run's own is not of that kind
MODES = {"chat": "dailydialog", "qa": "squad", "text": "text", "instruct": "dolly", "classify": None}
FIELDS = ("prompt", "context", "question", "instruction", "text", "sentence1", "sentence2")
TRIMMED = """A text to be continued is read, and its continuation shown, to the last character of either. In every other
 mode what is asked, typed or in a file, loses the space around it, and so does the answer; a chat's turns are else kept
 as they were typed."""


def parse():
    """The options; None where one was not given. Raises UserError for those that contradict each other."""
    parser = Parser(prog="generate.py", description=__doc__)
    parser.add_argument("--adapter", type=Path, metavar="RUN", help="a run's folder, or a plain LoRA adapter of PEFT's")
    parser.add_argument("--model", help="base model: a name or a folder; else the adapter's own, else nano")
    parser.add_argument("--ignore-base", action="store_true", help="use the adapter on another base than its own")
    parser.add_argument("--mode", choices=tuple(MODES), help="else what the run was trained for, else text")
    parser.add_argument("--task", help="whose prompts to use, instead of --mode")
    asked = parser.add_argument_group("what is asked; else an interactive session", description=TRIMMED)
    for name in FIELDS:
        asked.add_argument(f"--{name}", type=typed_text)
    asked.add_argument("--input", type=Path, metavar="FILE.jsonl", help="answer every line, its fields named as above")
    asked.add_argument("--output", type=Path, metavar="FILE.jsonl", help="where to write these answers")
    chosen = parser.add_argument_group("how tokens are chosen; else as the model's generation_config.json says")
    chosen.add_argument("--max-new-tokens", type=int, help="longest answer (default: 80)")
    chosen.add_argument("--greedy", action="store_true", help="always the likeliest token")
    chosen.add_argument("--temperature", type=float, help="below 1: likelier tokens gain (default: 0.7)")
    chosen.add_argument("--top-k", type=int, help="draw from the k likeliest tokens; 0: from all (default: 0)")
    chosen.add_argument("--top-p", type=float, help="draw from the likeliest tokens of this mass (default: 0.9)")
    chosen.add_argument("--min-p", type=float, help="draw from tokens of this share of the likeliest's probability")
    chosen.add_argument("--repetition-penalty", type=float, help="above 1: repeat less (default: 1)")
    chosen.add_argument("--no-repeat-ngram", type=int, help="never the same n tokens twice (default: 0, off)")
    chosen.add_argument("--num-beams", type=int, help="beam search of this width (default: 1, none)")
    chosen.add_argument("--length-penalty", type=float, help="of the beams: above 0 longer answers gain (default: 1)")
    chosen.add_argument(
        "--stop", nargs="+", type=typed_text, default=[], metavar="TEXT", help="end before any of these"
    )
    chosen.add_argument("--samples", type=int, default=1, help="answers to each prompt (default: 1)")
    chosen.add_argument("--best-of", type=int, help="draw this many answers and keep the likeliest")
    chosen.add_argument("--batch-size", type=int, default=16, help="prompts answered together (default: 16)")
    chosen.add_argument("--seed", type=int, help="the same seed gives the same answers, in batches of the same size")
    parser.add_argument("--json", action="store_true", help="print one JSON object an answer")
    parser.add_argument("--int8", action="store_true", help="weights in 8 bits: a quarter of their memory, faster")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="of matrix products (default: fp32)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    given = parser.parse_args()
    check(given)
    return given


def check(given) -> None:
    """Raises UserError for options that contradict each other."""
    for name in ("max_new_tokens", "num_beams", "samples", "best_of", "batch_size"):
        if (value := getattr(given, name)) is not None and value < 1:
            raise UserError(f"{_option(name)} must be at least 1, not {value}")
    draws = [_option(name) for name in DRAWING if getattr(given, name) is not None]
    if given.greedy and draws:
        raise UserError(f"--greedy draws nothing: leave out {', '.join(draws)}")
    beams = (given.num_beams or 1) > 1
    if beams and (clash := draws + ["--best-of"] * (given.best_of is not None) + ["--stop"] * bool(given.stop)):
        raise UserError(f"--num-beams draws nothing, and its answers end by themselves: leave out {', '.join(clash)}")
    check_length_penalty(given.length_penalty or 0.0)
    if not beams and given.length_penalty is not None:
        raise UserError("--length-penalty weighs beams: add --num-beams")
    if beams and given.samples > given.num_beams:
        raise UserError(f"--samples {given.samples} needs as many beams: raise --num-beams {given.num_beams}")
    if (given.greedy or given.temperature == 0) and (given.samples > 1 or given.best_of):
        raise UserError("--greedy has one answer: leave out --samples and --best-of, or leave out --greedy")
    if given.best_of and given.best_of < given.samples:
        raise UserError(f"--best-of {given.best_of} cannot keep --samples {given.samples}: raise --best-of")
    if given.mode and given.task:
        raise UserError("--mode and --task say the same: give one")
    if (given.input is None) != (given.output is None):
        raise UserError("--input and --output go together: give both")
    if given.output and given.output.is_dir():
        raise UserError(f"--output {given.output} is a folder: name a file in it")
    if given.input and any(getattr(given, name) is not None for name in FIELDS):
        raise UserError("--input holds what is asked: leave out --prompt and the like")


def check_classifier(given, task: Task) -> None:
    """Raises UserError where a classifier is told how to choose tokens."""
    if task.kind != "classify":
        return
    set_anyway = [name for name in (*DRAWING, "length_penalty", "best_of") if getattr(given, name) is not None]
    unset = {"samples": 1, **dict.fromkeys(("num_beams", "no_repeat_ngram", "repetition_penalty")), "stop": []}
    set_anyway += [name for name, value in (unset | {"greedy": False}).items() if getattr(given, name) != value]
    if set_anyway:
        raise UserError(f"{task.name} has classes and says nothing: leave out {', '.join(map(_option, set_anyway))}")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def task_of(given, trained: str) -> Task:
    """The task whose prompts are used: what was typed, else the run's own."""
    task = registry.task(given.task or trained)
    if given.mode is None or given.mode == task.kind:
        return task
    if MODES[given.mode] is None:
        raise UserError(f"--mode {given.mode} needs a run that was trained for it: {task.name} was not; name a --task")
    return registry.task(MODES[given.mode])


def main() -> None:
    """Checks everything that can be wrong, then answers a file, one request, or whoever types."""
    given = parse()
    # What can be wrong is found before Jittor is imported, which takes minutes on a new machine.
    from gpt2_jittor import runtime
    from inference import finished
    from inference.session import FILE_BATCH, Session

    finished.check_weights(given.int8, given.precision, given.device)
    found = finished.find(given.model, given.adapter, given.ignore_base)
    task = task_of(given, found.arguments.get("task", "text"))
    finished.check_kind(found, task)
    fields = typed_request({name: getattr(given, name) for name in FIELDS}, task)
    check_classifier(given, task)
    if task.kind == "classify":
        decoding, note = Decoding(batch_size=given.batch_size), None
    else:
        decoding, note = choose(given, found.generation, found.ends())
    session = Session(found, task, decoding, given.json)
    requests = read_requests(given.input, task) if given.input else None
    if task.kind != "classify":
        decoding.check(found.config, min(len(requests or [None]), FILE_BATCH))
    finished.check_weights(given.int8, given.precision, runtime.prepare(given.device))
    if note:
        print(note, file=sys.stderr)
    session.start(finished.load(found, task, given.int8, given.precision))
    if requests is not None:
        session.answer_all(requests, given.output)
    elif fields and not (task.kind == "qa" and "question" not in fields):
        session.say(fields)
    else:
        session.interact(**(fields or {}))


if __name__ == "__main__":
    run_command(main)
