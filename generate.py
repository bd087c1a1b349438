"""Talks with a model, or lets it continue a text.

python generate.py --adapter runs/dailydialog-nano-lora                 # chat; `exit` ends it
python generate.py --adapter RUN --prompt "Do you like coffee ?"        # one answer
python generate.py --adapter RUN --prompt "Hello !" --greedy --json     # for scripts
python generate.py --model gpt2 --prompt "The capital of France"        # no adapter: continues the text
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from common.command import Parser, run_command
from common.errors import UserError
from datasets import registry
from datasets.encode import prompt_ids
from datasets.example import Task
from gpt2_jittor.sampling import make_sampler
from gpt2_jittor.tokenizer import TextStream

MODES = {"chat": "dailydialog", "text": "text"}  # the task whose prompts a mode uses


def parse():
    parser = Parser(prog="generate.py", description=__doc__)
    parser.add_argument(
        "--adapter", type=Path, metavar="RUN", help="a run's folder, or any PEFT LoRA adapter for GPT-2"
    )
    parser.add_argument("--model", help="base model: a name or a folder; else the adapter's own, else nano")
    parser.add_argument("--mode", choices=tuple(MODES), help="else what the run was trained for, else text")
    parser.add_argument("--prompt", help="answer this and end; else an interactive session")
    parser.add_argument("--max-new-tokens", type=int, default=80, help="longest answer (default: 80)")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token")
    parser.add_argument("--temperature", type=float, help="below 1: likelier tokens gain (default: 0.7)")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest tokens; 0: from all (default: 0)")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest tokens of this mass (default: 0.9)")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1: repeat less (default: 1)")
    parser.add_argument("--seed", type=int, help="the same seed gives the same answers")
    parser.add_argument("--json", action="store_true", help="print one JSON object an answer")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    given = parser.parse_args()
    if given.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens must be at least 1, not {given.max_new_tokens}")
    if given.prompt is not None and not given.prompt.strip():
        raise UserError("--prompt is empty; give it some text")
    drawing = {"--temperature": given.temperature, "--top-k": given.top_k, "--top-p": given.top_p}
    if given.greedy and (clash := [name for name, value in drawing.items() if value is not None]):
        raise UserError(f"--greedy draws nothing: leave out {', '.join(clash)}")
    return given


class Session:
    """A model, its history and how it answers."""

    def __init__(self, given, finished, task: Task):
        self.given, self.tokenizer, self.task = given, finished.tokenizer, task
        self.positions = finished.config.n_positions
        self.sample = make_sampler(
            greedy=given.greedy,
            temperature=0.7 if given.temperature is None else given.temperature,
            top_k=given.top_k or 0,
            top_p=0.9 if given.top_p is None else given.top_p,
            repetition_penalty=given.repetition_penalty,
            seed=given.seed,
        )
        self.history: list[str] = []
        self.model = None

    def answer(self, text: str) -> Iterator[str]:
        """Yields the answer to `text`, piece by piece; in a chat, both join the history.

        Old turns that leave no room for the answer are forgotten, whole turns at a time.
        """
        from gpt2_jittor.generation import stream

        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError("the prompt is not UTF-8 text; check the terminal's encoding") from None
        room = max(1, self.positions - min(self.given.max_new_tokens, self.positions // 2))
        chat = self.task.kind == "chat"
        prompt = self.task.prompt([*self.history, text]) if chat else self.task.prompt(text)
        ids = prompt_ids(prompt, self.tokenizer, room)
        pieces, decoded = [], TextStream(self.tokenizer)
        self.tokens, started = 0, time.perf_counter()
        for token in stream(self.model, ids, self.sample, self.given.max_new_tokens, self.tokenizer.eos_token_id):
            self.tokens += 1
            pieces.append(decoded.push(token))
            yield pieces[-1]
        pieces.append(decoded.flush())
        yield pieces[-1]
        self.seconds = time.perf_counter() - started
        if chat and "".join(pieces).strip():  # an empty turn is none
            self.history += [text, "".join(pieces)]

    def say(self, text: str) -> None:
        """Prints the answer to `text` as it comes, or as one JSON object when it is whole."""
        if not self.given.json:
            for piece in self.answer(text):
                print(piece, end="", flush=True)
            print()
            return
        answer = "".join(self.answer(text))
        speed = round(self.tokens / self.seconds, 1)
        numbers = {"tokens": self.tokens, "seconds": round(self.seconds, 3), "tokens_per_second": speed}
        print(json.dumps({"prompt": text, "answer": answer, **numbers}, ensure_ascii=False), flush=True)

    def interact(self) -> None:
        """Answers line by line until `exit` or the end of the input."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (arrow keys at the prompt)
        while True:
            try:
                text = input("" if self.given.json else "> ").strip()
            except EOFError:
                if not self.given.json:
                    print()
                return
            if text == "exit":
                return
            if text:
                try:
                    self.say(text)
                except UserError as error:  # a turn too long for the context ends the turn, not the session
                    print(f"error: {error}", file=sys.stderr, flush=True)


def main() -> None:
    given = parse()
    # What can be wrong is found before Jittor is imported, which takes minutes on a new machine.
    from gpt2_jittor import runtime
    from training import finished

    found = finished.find(given.model, given.adapter)
    task = registry.task(MODES[given.mode] if given.mode else found.arguments.get("task", "text"))
    session = Session(given, found, task)
    runtime.prepare(given.device)
    session.model = finished.load(found)
    if given.prompt is not None:
        session.say(given.prompt)
    else:
        session.interact()


if __name__ == "__main__":
    run_command(main)
