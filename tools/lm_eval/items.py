"""Items of the harness's tasks, made of the embedded dialogues: nothing is fetched."""

import json
import random
from pathlib import Path

from datasets.tasks import dailydialog

SEED = 7  # of the replies that are wrong, and of where the right one stands
CHOICES = 4
TASKS = ("replies", "dialogues", "answers")  # which of four was said, how probable all is, what the model says


def write_items(folder: Path) -> None:
    """Writes a file of JSON lines for each of `TASKS`, beside a copy of the tasks' definitions that read them."""
    splits = [dailydialog.load(split, dailydialog.SAMPLE_DIR) for split in ("test", "validation")]
    dialogues = [[segment.text for segment in example.segments] for split in splits for example in split.examples]
    pairs = [(turn, reply) for turns in dialogues for turn, reply in zip(turns, turns[1:], strict=False)]
    _write(folder / "replies.jsonl", _replies(pairs))
    _write(folder / "dialogues.jsonl", [{"text": "\n".join(turns)} for turns in dialogues])
    _write(folder / "answers.jsonl", [{"turn": turn, "reply": reply} for turn, reply in pairs])
    for task in TASKS:
        name = f"{task}.yaml"
        (folder / name).write_bytes((Path(__file__).parent / "tasks" / name).read_bytes())


def _replies(pairs: list[tuple[str, str]]) -> list[dict]:
    """Each turn with its own reply, at `label`, among others' replies."""
    chosen, said, items = random.Random(SEED), sorted({reply for _, reply in pairs}), []
    for turn, reply in pairs:
        choices = chosen.sample([other for other in said if other != reply], CHOICES - 1)
        label = chosen.randrange(CHOICES)
        choices.insert(label, reply)
        items.append({"turn": turn, "choices": choices, "label": label})
    return items


def _write(path: Path, items: list[dict]) -> None:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
