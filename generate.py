"""Talks with a model, asks it, lets it classify, or lets it continue a text.

python generate.py --adapter runs/dailydialog-nano-lora                 # chat; `exit` ends it
python generate.py --adapter RUN --prompt "Do you like coffee?"         # one answer
python generate.py --adapter RUN --context "…" --question "…"           # one answer about a text
python generate.py --adapter RUN --input prompts.jsonl --output answers.jsonl
python generate.py --adapter RUN --prompt "Hello!" --greedy --json      # for scripts
python generate.py --model gpt2 --prompt "The capital of France"        # no adapter: continues the text
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.command import Parser, run_command
from common.errors import ParameterError, listed
from common.options import add_options, option, typed
from datasets import tasks
from datasets.task import KINDS, Task
from generation.loading import ModelOptions, check_task, check_weights, engine_for, find_task, options_for
from generation.options import DRAWING, GenerationOptions, check_typed
from generation.requests import read_requests, typed_request, typed_text
from lora.source import ModelSource, find

TRIMMED = """A text to be continued is read, and its continuation shown, to the last character of either. In every other
 mode what is asked, typed or in a file, loses the space around it, and so does the answer; a chat's turns are else kept
 as they were typed."""
# what says nothing to a classifier, which takes no tokens from anywhere
CHOOSING = (
    *(*DRAWING, "length_penalty", "best_of", "samples", "num_beams", "no_repeat_ngram_size"),
    *("repetition_penalty", "stop", "greedy"),
)


@dataclass(frozen=True)
class Asked:
    """What is asked; else an interactive session."""

    prompt: str | None = option(None, type=typed_text)
    system: str | None = option(None, "what an assistant is told before a chat", type=typed_text)
    context: str | None = option(None, type=typed_text)
    question: str | None = option(None, type=typed_text)
    instruction: str | None = option(None, type=typed_text)
    text: str | None = option(None, type=typed_text)
    sentence1: str | None = option(None, type=typed_text)
    sentence2: str | None = option(None, type=typed_text)
    meaning: str | None = option(None, "what to describe: name[…], food[…]", type=typed_text)
    input: Path | None = option(None, "answer every line, its fields named as above", metavar="FILE.jsonl")
    output: Path | None = option(None, "where to write these answers", metavar="FILE.jsonl")

    def fields(self) -> dict[str, str | None]:
        """What was typed for each field that a task may have."""
        return {name: value for name, value in vars(self).items() if name not in ("input", "output")}


def parse() -> argparse.Namespace:
    """The options; one that was not typed is absent. Raises UserError for those that contradict each other."""
    parser = Parser(prog="generate.py", description=__doc__)
    add_options(parser, ModelOptions)
    parser.add_argument("--mode", choices=tuple(KINDS), help="else what the run was trained for, else text")
    parser.add_argument("--task", help="whose prompts to use, instead of --mode")
    add_options(parser.add_argument_group("what is asked; else an interactive session", description=TRIMMED), Asked)
    add_options(
        parser.add_argument_group("how tokens are chosen; else as the model's generation_config.json says"),
        GenerationOptions,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object an answer")
    given = parser.parse_args()
    check_typed(typed(GenerationOptions, given))
    if given.mode and given.task:
        raise ParameterError("{mode} and {task} say the same: give one")
    check_asked(Asked(**typed(Asked, given)))
    return given


def check_asked(asked: Asked) -> None:
    """Raises UserError for a file that is named without the other, or beside what was typed."""
    if (asked.input is None) != (asked.output is None):
        raise ParameterError("{input} and {output} go together: give both")
    if asked.output and asked.output.is_dir():
        raise ParameterError("{output} {0} is a folder: name a file in it", asked.output)
    if asked.input and any(value is not None for value in asked.fields().values()):
        raise ParameterError("{input} holds what is asked: leave out {prompt} and the like")


def check_classifier(given: dict[str, Any], task: Task) -> None:
    """Raises UserError where a classifier is given options for choosing tokens."""
    if not task.kind.generates and (typed_anyway := [name for name in CHOOSING if name in given]):
        raise ParameterError(f"{{0}} has classes and says nothing: leave out {listed(typed_anyway)}", task.name)


def task_of(given: argparse.Namespace, source: ModelSource) -> Task:
    """The task whose prompts are used: what was typed, else the run's own, else text that is continued."""
    run = source.arguments
    task = find_task(source, given.task or run.get("task") or "text", run)
    if given.mode in (None, task.kind.name):
        return task
    if (example := KINDS[given.mode].example) is None:
        raise ParameterError(
            "{mode} {0} needs a run that was trained for it: {1} was not; name a {task}", given.mode, task.name
        )
    return tasks.find(example)


def main() -> None:
    """Checks everything that can be wrong, then answers a file, one request, or whoever types."""
    given = parse()
    how, asked = ModelOptions(**typed(ModelOptions, given)), Asked(**typed(Asked, given))
    chosen = typed(GenerationOptions, given)
    # What can be wrong is found before Jittor is imported, which takes minutes on a new machine.
    from gpt2_jittor.runtime import runtime

    check_weights(how.weights, how.precision, how.device)
    source = find(how.model, how.adapter, how.ignore_base)
    task = task_of(given, source)
    check_task(source, task)
    fields = typed_request(asked.fields(), task)
    check_classifier(chosen, task)
    options, note = options_for(source, task, chosen)
    from generation.console import Console

    requests = read_requests(asked.input, task) if asked.input else None
    if task.kind.generates:
        options.check(source.config, len(requests or [None]))
    check_weights(how.weights, how.precision, runtime.prepare(how.device))
    if note:
        print(note, file=sys.stderr)
    engine = engine_for(source, task, options, how.weights, how.precision)
    del source  # its adapter's arrays, which are in the model now
    console = Console(engine, given.json)
    if requests is not None:
        console.answer_all(requests, asked.output)
    elif fields and list(fields) != [task.kind.standing]:
        console.say(fields)
    else:
        console.interact(*(fields or {}).values())


if __name__ == "__main__":
    run_command(main)
