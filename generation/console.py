"""An engine at a terminal: one input, a conversation, or many inputs from a file."""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import is_own_stream, writing_to
from common.options import option_name
from common.terminal import exact
from generation.engine import Engine, Prompt
from generation.requests import Request, typed_text

GIVEN = "given"


class Console:
    """A task's fields come in, answers or classes are printed; a chat remembers what was said."""

    def __init__(self, engine: Engine, as_json: bool = False):
        self.engine, self.task, self.as_json = engine, engine.task, as_json
        self.history: list[str] = []

    def say(self, fields: dict[str, str]) -> None:
        """Prints what comes of one input: streamed where that is possible, as one JSON object where it was asked.

        Raises UserError for an input that is too long.
        """
        prompt = self._encode(fields, self.history)
        if self.as_json:
            started = time.perf_counter()
            (result,) = self._results([fields], [prompt])
            seconds = time.perf_counter() - started
            if "tokens" in result:
                result |= {"seconds": round(seconds, 3), "tokens_per_second": round(result["tokens"] / seconds, 1)}
            print(json.dumps(result, ensure_ascii=False), flush=True)
            self._remember(fields, result.get("answer", ""))
        elif not self.task.kind.generates:
            for label, share in self.engine.classify([prompt])[0].items():
                print(f"{share:7.1%}  {label}")
        elif self.engine.can_stream(prompt):
            said = ""
            for piece in self.engine.stream(prompt):
                print(piece, end="", flush=True, file=exact(sys.stdout))
                said += piece
            print()
            self._remember(fields, said)
        else:
            (found,) = self.engine.answers([prompt])
            for number, answer in enumerate(found, 1):
                shown = f"{number}. {answer.text}" if len(found) > 1 else answer.text
                print(shown, flush=True, file=exact(sys.stdout))
            self._remember(fields, found[0].text)

    def results(self, inputs: list[dict[str, str]]) -> list[dict[str, Any]]:
        """What comes of each input by itself, with the input's fields: `answer` (and `answers`), or `label`."""
        return self._results(inputs, [self.engine.encode(self.engine.example(fields)) for fields in inputs])

    def interact(self, given: str | None = None) -> None:
        """Asks for the task's fields and answers, until `exit` or the end of the input.

        A context for questions may have several lines, up to an empty one, and is asked for once: an empty question
        asks for another. It can also be `given`, as can what an assistant is told, which is not asked for.
        """
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (arrow keys at the prompt)
        with contextlib.suppress(AttributeError):
            sys.stdin.reconfigure(errors="surrogateescape")  # bytes that the locale does not know are kept
        *first, last = self.task.fields
        standing = self.task.kind.standing
        asked = [name for name in first if name not in self.task.kind.optional]
        with contextlib.suppress(EOFError):
            while True:
                fields = {standing: given} if given else {name: self._ask(name) for name in asked}
                given = None
                while (text := self._ask(last)) or not standing:  # an instruction may have no context
                    try:
                        self.say({**fields, last: text})
                    except UserError as error:  # an input that is too long ends the turn, not the session
                        print(f"error: {error.with_names(option_name)}", file=sys.stderr, flush=True)
                    if not standing:
                        break
        if not self.as_json:
            print()

    def answer_all(self, requests: list[Request], output: Path) -> None:
        """Answers requests into a JSON-lines file, in their order, with a bar; each chat is a conversation of its own.

        Raises UserError, before anything is answered, for a request that is too long.
        """
        prompts = []
        for request in requests:
            try:
                prompts.append(self._encode(request.fields))
            except UserError as error:
                raise UserError(f"{request.where}: {error}") from None
        with writing_to(output) as temporary, temporary.open("w", encoding="utf-8") as file:
            results = self._results([request.fields for request in requests], prompts, progress=True)
            for request, result in zip(requests, results, strict=True):
                file.write(json.dumps(_with_answer(request.more, result), ensure_ascii=False) + "\n")
        heard = sys.stderr if is_own_stream(output) else sys.stdout  # where the answers go, nothing else does
        print(f"wrote {output}: {len(requests):,} answers", file=heard)

    def _encode(self, fields: dict[str, str], history: list[str] | tuple = ()) -> Prompt:
        return self.engine.encode_whole(self.engine.example(fields, history))

    def _results(
        self, inputs: list[dict[str, str]], prompts: list[Prompt], progress: bool = False
    ) -> list[dict[str, Any]]:
        make: Callable = self._answered if self.task.kind.generates else self._classified
        return [{**fields, **result} for fields, result in zip(inputs, make(prompts, progress), strict=True)]

    def _answered(self, prompts: list[Prompt], progress: bool) -> list[dict[str, Any]]:
        results = []
        for found in self.engine.answers(prompts, progress):
            tokens = sum(answer.tokens for answer in found)
            results.append({"answer": found[0].text, "score": round(found[0].score, 4), "tokens": tokens})
            if len(found) > 1:
                results[-1]["answers"] = [answer.text for answer in found]
        return results

    def _classified(self, prompts: list[Prompt], progress: bool) -> list[dict[str, Any]]:
        return [
            {"label": next(iter(shares)), "probabilities": {label: round(share, 6) for label, share in shares.items()}}
            for shares in self.engine.classify(prompts, progress)
        ]

    def _remember(self, fields: dict[str, str], answer: str) -> None:
        if self.task.kind.remembers and answer.strip():  # an empty turn is none
            self.history += [fields[self.task.fields[-1]], answer]

    def _ask(self, name: str) -> str:
        """What is typed for a field. Raises EOFError at `exit`, and UserError for what is no text."""
        kind, fields = self.task.kind, self.task.fields
        sign = "> " if len(fields) == 1 or kind.remembers else f"{name}> "
        stands = kind.standing and kind.standing not in kind.optional
        may_be_empty = name in kind.optional or (stands and name == fields[-1])
        while True:
            if name == kind.standing:  # a pasted text has several lines
                text = self._line(f"{name}, up to an empty line> ")
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
        with contextlib.suppress(UserError):  # it is reported once the turn is whole, and the session goes on
            text = typed_text(text)
        if text.strip() == "exit":
            raise EOFError
        return text if self.task.kind.keeps_space and text.strip() else text.strip()


def _with_answer(line: dict, result: dict) -> dict:
    """An input's own fields with what came of it; those that are called as an answer's go below `given`."""
    clash = {name: value for name, value in line.items() if name in {*result, GIVEN}}
    return {**line, **result} | ({GIVEN: clash} if clash.keys() - {GIVEN} else {})
