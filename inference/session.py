"""One task's model at work: one input at a time, streamed, interactive, or many from a file."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from common.files import is_own_stream, writing_to
from common.options import option_name
from common.terminal import bar, exact
from datasets.example import Example, Task
from gpt2_jittor.stopping import Stopper
from inference.answers import Answers, Decoding
from inference.requests import Request, typed_text

GIVEN = "given"
FILE_BATCH = 64  # inputs of a file that are answered together: lengths can be sorted, and the bar moves


class Session:
    """A task's fields come in, answers or classes go out; a chat remembers what was said."""

    def __init__(self, finished, task: Task, decoding: Decoding, as_json: bool):
        self.tokenizer, self.task, self.decoding, self.as_json = finished.tokenizer, task, decoding, as_json
        self.max_length, self.positions = finished.arguments.get("max_length"), finished.config.n_positions
        # what is wrong with the options is told before the model is read
        decoding.sampler()
        Stopper(decoding.stop)
        self.history: list[str] = []

    def start(self, model) -> None:
        """Takes the model, once it is read."""
        self.model = model
        if self.task.kind != "classify":
            self.answers = Answers(model, self.tokenizer, self.task, self.decoding, self.max_length)

    def say(self, fields: dict[str, str]) -> None:
        """Prints what comes of one input: streamed where that is possible, as one JSON object where it was asked.

        Raises UserError for an input that is too long.
        """
        self._check_length(self._example(fields))
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
                print(piece, end="", flush=True, file=exact(sys.stdout))
            print()
        else:
            told = self._answered(fields)
            several = told.get("answers", [told["answer"]])
            for number, text in enumerate(several, 1):
                print(f"{number}. {text}" if len(several) > 1 else text, flush=True, file=exact(sys.stdout))

    def results(self, inputs: list[dict[str, str]]) -> list[dict]:
        """What comes of each input, with the input's fields: `answer` (and `answers`), or `label`."""
        examples = [self._example(fields) for fields in inputs]
        if self.task.kind == "classify":
            from inference.classes import probabilities

            sizes = (self.decoding.batch_size, self.max_length)
            shares = probabilities(self.model, self.tokenizer, self.task, examples, *sizes)
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

    def interact(self, context: str | None = None) -> None:
        """Asks for the task's fields and answers, until `exit` or the end of the input.

        A context for questions may have several lines, up to an empty one, and is asked for once: an empty question
        asks for another. It can also be given.
        """
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (arrow keys at the prompt)
        with contextlib.suppress(AttributeError):
            sys.stdin.reconfigure(errors="surrogateescape")  # bytes that the locale does not know are kept
        *first, last = self.task.fields
        with contextlib.suppress(EOFError):
            while True:
                fields = {"context": context} if context else {name: self._ask(name) for name in first}
                context = None
                while (text := self._ask(last)) or self.task.kind != "qa":  # an instruction may have no context
                    try:
                        self.say({**fields, last: text})
                    except UserError as error:  # an input that is too long ends the turn, not the session
                        print(f"error: {error.with_names(option_name)}", file=sys.stderr, flush=True)
                    if self.task.kind != "qa":
                        break
        if not self.as_json:
            print()

    def answer_all(self, requests: list[Request], output: Path) -> None:
        """Answers requests into a JSON-lines file, in their order, with a bar; each chat is a conversation of its own.

        Raises UserError, before anything is answered, for a request that is too long.
        """
        for request in requests:
            try:
                self._check_length(self._example(request.fields))
            except UserError as error:
                raise UserError(f"{request.where}: {error}") from None
        with (
            writing_to(output) as temporary,
            temporary.open("w", encoding="utf-8") as file,
            bar("answer", total=len(requests), unit="input") as shown,
        ):
            for start in range(0, len(requests), FILE_BATCH):
                some = requests[start : start + FILE_BATCH]
                for request, told in zip(some, self.results([request.fields for request in some]), strict=True):
                    file.write(json.dumps(_with_answer(request.more, told), ensure_ascii=False) + "\n")
                shown.update(len(some))
        heard = sys.stderr if is_own_stream(output) else sys.stdout  # where the answers go, nothing else does
        print(f"wrote {output}: {len(requests):,} answers", file=heard)

    def _check_length(self, example: Example) -> None:
        """Raises UserError where an input would be cut that was typed to be read as a whole.

        A chat forgets its oldest turns instead, and a long context is read in windows.
        """
        if self.task.kind == "classify":
            room = min(self.max_length or self.positions, self.positions)
        else:
            room = self.answers.room
            self.answers.prompts(example)
        if self.task.kind in ("classify", "instruct"):
            length = len(self.task.encode_prompt(example, self.tokenizer, sys.maxsize)[0])
            if length > room:
                raise UserError(f"the input takes {length} tokens, {room} fit: shorten it")

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

        text, said = StoppedText(self.tokenizer, self.decoding.stop), ""
        keeps_space = self.task.kind == "text"
        # an end token may be text itself, and so is asked for and shown; special tokens are no text
        for token in stream(self.model, ids, self.answers.sample, self.decoding.max_new_tokens, None):
            piece, stopped = text.push(token)
            piece = piece if said or keeps_space else piece.lstrip()
            said += piece
            yield piece
            if stopped or token in self.answers.end_ids:
                break
        rest = text.flush()
        yield rest if said or keeps_space else rest.lstrip()
        said += rest
        if self.task.kind == "chat":
            self._remember(fields["prompt"], said)

    def _remember(self, asked: str, answer: str) -> None:
        if answer.strip():  # an empty turn is none
            self.history += [asked, answer]

    def _ask(self, name: str) -> str:
        """What is typed for a field. Raises EOFError at `exit`, and UserError for what is no text."""
        kind = (self.task.kind, name)
        sign = "> " if len(self.task.fields) == 1 else f"{name}> "
        may_be_empty = kind in (("qa", "question"), ("instruct", "context"))
        while True:
            if kind == ("qa", "context"):  # a pasted text has several lines
                text = self._line("context, up to an empty line> ")
                while line := self._line("") if text else "":
                    text += f"\n{line}"
            else:
                text = self._line(sign)
            if text or may_be_empty:
                return text

    def _line(self, sign: str) -> str:
        try:
            text = input("" if self.as_json else sign)
        except UnicodeDecodeError:
            raise UserError("what was typed is not UTF-8 text; check the terminal's encoding") from None
        with contextlib.suppress(UserError):  # it is told once the turn is whole, and the session goes on
            text = typed_text(text)
        if text.strip() == "exit":
            raise EOFError
        return text if self.task.kind == "text" and text.strip() else text.strip()


def _with_answer(line: dict, told: dict) -> dict:
    """An input's own fields with what was told; those that are called as an answer's go below `given`."""
    clash = {name: value for name, value in line.items() if name in {*told, GIVEN}}
    return {**line, **told} | ({GIVEN: clash} if clash.keys() - {GIVEN} else {})
