"""DailyDialog: everyday conversations, for a model that chats.

The publisher's layout is a zip a split with `<split>/dialogues_<split>.txt` inside: a dialogue a line, every
turn ended by `__eou__`. The first turn is given, every later one is scored, whoever speaks: the two sides of
such a dialogue talk alike, and so the model learns from both.
"""

from collections.abc import Sequence
from pathlib import Path

from common.errors import ParameterError, UserError
from common.hub import fetch
from datasets.encode import dialogue as encode
from datasets.encode import dialogue_prompt
from datasets.example import Dataset, Example, Segment
from datasets.read import read_text, read_zip_member
from datasets.task import CHAT, Task
from datasets.tasks.detokenise import detokenise, is_corpus, is_pretokenised

REPOSITORY = "roskoN/dailydialog"
SAMPLE_DIR = Path(__file__).parents[1] / "samples" / "dailydialog"
END_OF_TURN = "__eou__"


def load(split: str, data_dir: Path | None) -> Dataset:
    """Reads a split from `data_dir` (the publisher's zips, or their folders), or from the hub.

    The publisher's English gets its ordinary spelling, and so does the sample's, which is too small to be told by its
    marks; all other text stays as it is.
    Raises UserError where the split is missing, is not UTF-8, or has no dialogue in it.
    """
    path, text = _read(split, data_dir)
    is_sample = data_dir is not None and Path(data_dir).resolve() == SAMPLE_DIR.resolve()
    pretokenised = is_sample or is_corpus(text)
    examples, dropped, respelt = [], [], 0
    for number, line in enumerate(text.rstrip().split("\n"), 1):
        source = f"{path}:{number}"
        turns = [turn.strip() for turn in _turns(line)]
        ordinary = [detokenise(turn) for turn in turns] if pretokenised and is_pretokenised(line) else turns
        respelt += sum(turn != before for turn, before in zip(ordinary, turns, strict=True))
        example = dialogue(ordinary, source)
        fault = _fault(example)
        if fault:
            dropped.append(f"{source}: {fault}")
        else:
            examples.append(example)
    if not examples:
        first = f"; the first line: {dropped[0]}" if dropped else ""
        raise UserError(f"{path} has no dialogue: it needs one a line, turns ended by {END_OF_TURN}{first}")
    notes = [f"pre-tokenised English, given its ordinary spelling: {respelt:,} turns"] if respelt else []
    return Dataset("dailydialog", split, examples, dropped, notes)


def dialogue(turns: Sequence[str], source: str = "") -> Example:
    """The example for a dialogue: for training, and for a chat's history alike.

    The first turn is given, the others are scored; each is followed by the end token. A turn loses the space around
    it, nothing else. Where the tokenizer has the speakers' tokens (`added_tokens`), each turn begins with its
    speaker's, which is never scored.
    """
    return Example(
        tuple(Segment(turn.strip(), scored=index > 0, speaker=index % 2) for index, turn in enumerate(turns)),
        source,
    )


def prompt(history: Sequence[str]) -> Example:
    """What the next turn continues: it begins right after the end token of the last one, or its speaker's token."""
    return dialogue([*history, ""]).given


def _turns(line: str) -> list[str]:
    turns = line.split(END_OF_TURN)
    return turns if turns[-1].strip() else turns[:-1]


def _fault(example: Example) -> str:
    if not all(segment.text for segment in example.segments):
        return "an empty turn"
    if len(example.segments) < 2:
        return f"fewer than two turns ended by {END_OF_TURN}"
    return ""


def _read(split: str, data_dir: Path | None) -> tuple[str, str]:
    """The text of a split, and where it came from."""
    member = f"{split}/dialogues_{split}.txt"
    if data_dir is None:
        archive = fetch(REPOSITORY, f"{split}.zip", repo_type="dataset")
    else:
        if Path(data_dir).is_file():
            raise ParameterError(
                "{0} is a file, and DailyDialog a folder; of your own data, name what they are: {task} chat, instruct, "
                "complete or classify",
                data_dir,
            )
        folder, archive = Path(data_dir) / member, Path(data_dir) / f"{split}.zip"
        if folder.is_file():
            return str(folder), read_text(folder)
        if not archive.is_file():
            raise UserError(f"{data_dir} has neither {split}.zip nor {member}: give DailyDialog's folder")
    return f"{archive}/{member}", read_zip_member(archive, member)


TASK = Task("dailydialog", CHAT, ("prompt",), load, encode, prompt, dialogue_prompt, SAMPLE_DIR)
