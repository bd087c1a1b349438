"""What a model would be trained on, without training one.

python -m datasets report --data chats.jsonl                            # lengths, duplicates, what is dropped and why
python -m datasets report --task complete --data qa.csv --columns prompt=question completion=answer --model gpt2
"""

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any

from common.command import Parser, run_command
from common.errors import UserError
from common.options import add_options, option, problems, typed
from datasets import overview, tasks
from datasets.example import SPLITS


@dataclass(frozen=True)
class ReportOptions:
    """Which data, and what reads them: names and meanings are those of `train.py`."""

    task: str | None = option(
        None, "what they are: chat, instruct, complete or classify, else as they look; or a publisher's task"
    )
    data: str | None = option(None, "a file of your own data", metavar="FILE")
    data_dir: str | None = option(None, "a folder of data, or `sample`")
    columns: list[str] | None = option(None, "what your data call a column", metavar="NAME=COLUMN")
    labels: list[str] | None = option(None, "a classifier's classes, in order")
    validation_share: float | None = option(None, "set apart where there is no validation file", above=0, below=1)
    chat_template: str | None = option(None, "how a chat's turns are opened and closed, in Jinja", metavar="FILE")
    model: str = option("nano", "whose tokenizer reads the data")
    added_tokens: list[str] | None = option(None, "new tokens")
    max_length: int = option(512, "longest example in tokens", at_least=2)


def parse() -> ReportOptions:
    """The options of `report`. Raises UserError for a number out of range."""
    parser = Parser(prog="python -m datasets", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="report")
    add_options(commands.add_parser("report", help="show what is learnt of data, and what is not"), ReportOptions)
    parsed: argparse.Namespace = parser.parse_args()
    given = ReportOptions(**typed(ReportOptions, parsed))
    for problem in problems(given):
        raise problem
    return given


def main() -> None:
    """Prints the report. Raises UserError for data that no model could be trained on."""
    from gpt2_jittor.checkpoint.locate import locate
    from gpt2_jittor.checkpoint.tokenizer import add_tokens, load_tokenizer

    given = parse()
    run: dict[str, Any] = dataclasses.asdict(given)
    run["task"] = given.task or tasks.guessed(given.data_dir, given.data, given.columns or ())
    task = tasks.settled(tasks.find(run["task"], run), run)
    path = tasks.data_path(task, given.data_dir, given.data)
    tokenizer = load_tokenizer(locate(given.model))
    added = add_tokens(tokenizer, given.added_tokens or ())
    template = tasks.chat_template(task, given.chat_template)
    if task.teach:
        task.teach(tokenizer, template)
    splits = {}
    for split in SPLITS if task.measured_on(path) == "test" else SPLITS[:2]:
        try:
            dataset = task.load(split, path)
        except UserError:
            if split != "test" or task.own:
                raise
            continue
        splits[split] = dataset, task.encode(dataset.examples, tokenizer, given.max_length)
    print(overview.full(splits, tokenizer, added))


if __name__ == "__main__":
    run_command(main)
