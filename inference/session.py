"""One task's model at work: one input at a time, streamed, interactive, or many from a file."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from common.errors import UserError
from common.files import replacing
from datasets.example import Example, Task
from inference.answers import Answers, Decoding

FILE_BATCH = 64  # inputs of a file that are answered together: lengths can be sorted, and few are lost at a cut


class Session:
    """A task's fields come in, answers or classes go out; a chat remembers what was said."""

    def __init__(self, finished, task: Task, decoding: Decoding, as_json: bool):
        self.tokenizer, self.task, self.decoding, self.as_json = finished.tokenizer, task, decoding, as_json
        self.sample = decoding.sampler()  # what is wrong with the options is told before the model is read
        self.history: list[str] = []

    def start(self, model) -> None:
        """Takes the model, once it is read."""
        self.model = model
        if self.task.kind != "classify":
            self.answers = Answers(model, self.tokenizer, self.task, self.decoding)

    def say(self, fields: dict[str, str]) -> None:
        """Prints what comes of one input: streamed where that is possible, as one JSON object where it was asked."""
        if self.as_json:
            started = time.perf_counter()
            told = self._answered(fields)
            seconds = time.perf_counter() - started
            if "tokens" in told:
                told |= {"seconds": round(seconds, 3), "tokens_per_second": round(told["tokens"] / seconds, 1)}
            print(json.dumps(told, ensure_ascii=False), flush=True)
        elif self.task.kind == "classify":
            for label, share in self.results([fields])[0]["probabilities"].items():
                print(f"{share:7.1%}  {label}")
        elif self.decoding.streams and len(prompts := self.answers.prompts(self._example(fields))) == 1:
            for piece in self._streamed(fields, prompts[0]):
                print(piece, end="", flush=True)
            print()
        else:
            told = self._answered(fields)
            several = told.get("answers", [told["answer"]])
            for number, text in enumerate(several, 1):
                print(f"{number}. {text}" if len(several) > 1 else text, flush=True)

    def results(self, inputs: list[dict[str, str]]) -> list[dict]:
        """What comes of each input, with the input's fields: `answer` (and `answers`), or `label`."""
        examples = [self._example(fields) for fields in inputs]
        if self.task.kind == "classify":
            from inference.classes import probabilities

            shares = probabilities(self.model, self.tokenizer, self.task, examples, self.decoding.batch_size)
            return [
                {**fields, "label": next(iter(each)), "probabilities": {k: round(v, 6) for k, v in each.items()}}
                for fields, each in zip(inputs, shares, strict=True)
            ]
        results = []
        for fields, found in zip(inputs, self.answers.to(examples), strict=True):
            tokens = sum(answer.tokens for answer in found)
            told = {**fields, "answer": found[0].text, "score": round(found[0].score, 4), "tokens": tokens}
            if len(found) > 1:
                told["answers"] = [answer.text for answer in found]
            results.append(told)
        return results

    def _answered(self, fields: dict[str, str]) -> dict:
        (told,) = self.results([fields])
        if self.task.kind == "chat":
            self._remember(fields["prompt"], told["answer"])
        return told

    def interact(self) -> None:
        """Asks for the task's fields and answers, until `exit` or the end of the input.

        A context for questions is asked for once: an empty question asks for another.
        """
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (arrow keys at the prompt)
        with contextlib.suppress(EOFError):
            while True:
                fields = {name: self._ask(name) for name in self.task.fields[:-1]}
                while text := self._ask(self.task.fields[-1]):
                    try:
                        self.say({**fields, self.task.fields[-1]: text})
                    except UserError as error:  # an input that is too long ends the turn, not the session
                        print(f"error: {error}", file=sys.stderr, flush=True)
                    if self.task.kind != "qa" and fields:
                        break
        if not self.as_json:
            print()

    def answer_all(self, inputs: list[dict[str, str]], output: Path) -> None:
        """Answers inputs into a JSON-lines file, in their order, with a bar; each chat is a conversation of its own."""
        with (
            replacing(output) as temporary,
            temporary.open("w", encoding="utf-8") as file,
            tqdm(total=len(inputs), desc="answer", unit="input", dynamic_ncols=True) as bar,
        ):
            for start in range(0, len(inputs), FILE_BATCH):
                some = inputs[start : start + FILE_BATCH]
                for told in self.results(some):
                    file.write(json.dumps(told, ensure_ascii=False) + "\n")
                bar.update(len(some))
        print(f"wrote {output}: {len(inputs):,} answers")

    def _example(self, fields: dict[str, str]) -> Example:
        for name, text in fields.items():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                raise UserError(f"the {name} is not UTF-8 text; check the terminal's encoding") from None
        if self.task.kind == "chat":
            return self.task.prompt([*self.history, fields["prompt"]])
        return self.task.prompt(**fields)

    def _streamed(self, fields: dict[str, str], ids) -> Iterator[str]:
        """Yields the answer piece by piece; in a chat, both join the history."""
        from gpt2_jittor.generation import stream
        from gpt2_jittor.stopping import StoppedText

        text, pieces = StoppedText(self.tokenizer, self.decoding.stop), []
        end = self.tokenizer.eos_token_id
        for token in stream(self.model, ids, self.answers.sample, self.decoding.max_new_tokens, end):
            piece, stopped = text.push(token)
            pieces.append(piece)
            yield piece
            if stopped:
                break
        pieces.append(text.flush())
        yield pieces[-1]
        if self.task.kind == "chat":
            self._remember(fields["prompt"], "".join(pieces))

    def _remember(self, asked: str, answer: str) -> None:
        if answer.strip():  # an empty turn is none
            self.history += [asked, answer]

    def _ask(self, name: str) -> str:
        """One line from the terminal. Raises EOFError at `exit`."""
        sign = "> " if len(self.task.fields) == 1 else f"{name}> "
        while True:
            text = input("" if self.as_json else sign).strip()
            if text == "exit":
                raise EOFError
            if text or (self.task.kind, name) in (("qa", "question"), ("instruct", "context")):
                return text
