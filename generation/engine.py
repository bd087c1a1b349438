"""One task's model at work: examples in, text or classes out.

An engine neither prints nor asks: the console, files, and evaluation are its callers.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import UserError
from common.terminal import bar
from datasets.batches import collate
from datasets.encode import Encoded, EncodedSet
from datasets.example import Example
from datasets.task import Task
from generation.options import GenerationOptions
from generation.stopping import StoppedText
from generation.text import Generated, Text, max_answer_tokens
from generation.token import Token
from gpt2_jittor.checkpoint.tokenizer import text_of


@dataclass(frozen=True)
class Answer:
    """One answer; `score` is the mean log-probability of its tokens, `tokens` counts them, end token included.

    Its text goes on where the prompt ends where the task continues text; else it has no space around it.
    """

    text: str
    score: float
    tokens: int


@dataclass(frozen=True)
class Prompt:
    """An example, and the ids of each window in which its text is read: int32 [time], most often one."""

    example: Example
    windows: list[np.ndarray]


class Engine:
    """A model that answers. It counts its texts, so a seed gives the same answers in the same order; how many are made
    together says nothing to them.

    `max_length`: the tokens of a prompt and its answer together, as in training; else all that the model can read.
    The model's weights must stay as they are: keys and values of what was asked and answered alone are kept, and a next
    text that begins alike, as a chat's next turn does, costs only what is new.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        task: Task,
        options: GenerationOptions | None = None,
        max_length: int | None = None,
    ):
        self.model, self.tokenizer, self.task = model, tokenizer, task
        self.options = options = options or GenerationOptions()
        options.sampler()  # refuses what is out of range
        self.end_ids = (tokenizer.eos_token_id,) if options.end_ids is None else options.end_ids
        self.max_length = min(model.config.n_positions, max_length or model.config.n_positions)
        self._made = itertools.count()  # texts, for what each draws by
        from generation.prefixes import Prefixes

        self._prefixes = Prefixes(model.config.n_positions)

    @property
    def max_prompt_tokens(self) -> int:
        """How long a prompt may be: all that a classifier can read, else so much that the longest answer still fits."""
        return self.options.max_prompt_tokens(self.max_length) if self.task.kind.generates else self.max_length

    def example(self, asked: str | Mapping[str, str] | Example, history: Sequence[str] = ()) -> Example:
        """What is asked, as an example: the task's fields, or the text of its only one; `history` before it in a chat.

        Raises UserError for a field that is missing or not the task's, and for half of a character, which no tokenizer
        takes.
        """
        if isinstance(asked, Example):
            return asked
        needed = self.task.needed
        fields = dict(asked) if isinstance(asked, Mapping) else {needed[0]: asked}
        if missing := [name for name in needed if name not in fields]:
            raise UserError(f"the field {missing[0]!r} is missing: {self.task.name} needs {', '.join(needed)}")
        if foreign := [name for name in fields if name not in self.task.fields]:
            raise UserError(f"{self.task.name} has no field {foreign[0]!r}: it takes {', '.join(self.task.fields)}")
        for name, text in fields.items():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                raise UserError(f"the {name} is not UTF-8 text; check the terminal's encoding") from None
        return self.task.asked(fields, history)

    def encode(self, example: Example) -> Prompt:
        """The ids that answer it when they are continued. Raises UserError, naming its source, for what is too long."""
        try:
            return Prompt(example, self.task.encode_prompt(example, self.tokenizer, self.max_prompt_tokens))
        except UserError as error:
            raise UserError(f"{example.source}: {error}" if example.source else str(error)) from None

    def encode_whole(self, example: Example) -> Prompt:
        """As `encode`, for what was typed to be read as a whole: UserError, too, where the task would cut it.

        A chat forgets its oldest turns instead, and a long context is read in windows.
        """
        prompt = self.encode(example) if self.task.kind.generates else None
        if self.task.kind.refuses_long:
            (whole,) = self.task.encode_prompt(example, self.tokenizer, np.iinfo(np.int64).max)
            if len(whole) > self.max_prompt_tokens:
                raise UserError(f"the input takes {len(whole)} tokens, {self.max_prompt_tokens} fit: shorten it")
        return prompt or self.encode(example)

    def can_stream(self, prompt: Prompt) -> bool:
        """Whether its answer can be shown while it is made: nothing is chosen among several."""
        return self.task.kind.generates and self.options.streams and len(prompt.windows) == 1

    def stream(self, asked: str | Mapping[str, str] | Example | Prompt) -> Iterator[str]:
        """Yields the answer piece by piece, as text that is certain; whole, where it is chosen among several.

        Raises UserError for what is too long.
        """
        prompt = self._prompt(asked)
        if not self.can_stream(prompt):
            yield self.answers([prompt])[0][0].text
            return
        (text,) = self._texts(prompt.windows, shown=True)
        begun = self.task.kind.keeps_space
        for _ in self._continued([text]):
            piece = text.pieces[-1] if begun else text.pieces[-1].lstrip()
            begun = begun or bool(piece)
            yield piece

    def answer(self, asked: str | Mapping[str, str] | Sequence) -> str | list[str]:
        """Text in, text out: the likeliest answer to one text (or fields), or to each of a list of them.

        Raises UserError for what is too long.
        """
        if isinstance(asked, str | Mapping | Example | Prompt):
            return self.answer([asked])[0]
        return [several[0].text for several in self.answers(asked)]

    def answers(self, asked: Sequence, progress: bool = False) -> list[list[Answer]]:
        """The answers to each, asked as `stream` is: `options.samples` of them, the likeliest first, from whichever of
        its windows.

        `options.batch_size` texts are made together, one beginning where another ends. With `progress`, a bar shows
        prompts done, tokens a second and the time left. Raises UserError, naming the example, for a prompt that is too
        long.
        """
        if not self.task.kind.generates:
            raise UserError(f"{self.task.name} has classes and says nothing: let it classify")
        encoded = [self._prompt(each) for each in asked]
        windows = [ids for prompt in encoded for ids in prompt.windows]
        make = self._searched if self.options.num_beams > 1 else self._drawn
        made, tokens = [[] for _ in windows], 0
        with bar("answer", total=len(windows), unit="prompt", disable=not progress) as shown:
            for place, several in make(windows):
                made[place] = several
                tokens += sum(each.tokens for each in several)
                speed = tokens / max(shown.format_dict["elapsed"], 1e-3)
                shown.set_postfix_str(f"{speed:,.0f} tokens/s", refresh=False)
                shown.update(1)
        each = iter(made)
        return [self._likeliest([one for _ in prompt.windows for one in next(each)]) for prompt in encoded]

    def classify(
        self, asked: str | Mapping[str, str] | Sequence, progress: bool = False
    ) -> dict[str, float] | list[dict[str, float]]:
        """Each class's probability, the likeliest first: of one text (or fields), or of each of a list of them.

        Texts are cut to `max_length` tokens, as they were in training. With `progress`, a bar shows how many are done.
        """
        from generation.scoring import class_shares

        if self.task.kind.generates:
            raise UserError(f"{self.task.name} has no classes: let it answer")
        if isinstance(asked, str | Mapping | Example | Prompt):
            return self.classify([asked])[0]
        prompts = [self._prompt(each) for each in asked]
        found, size = [], self.options.batch_size
        with bar("classify", total=len(prompts), unit="text", disable=not progress) as shown:
            for start in range(0, len(prompts), size):
                ids = [prompt.windows[0] for prompt in prompts[start : start + size]]
                batch = collate([Encoded(i, i) for i in ids], self.tokenizer.pad_token_id)
                shares = class_shares(self.model, batch.input_ids, batch.attention_mask)
                found += [{self.task.labels[k]: float(row[k]) for k in np.argsort(-row)} for row in shares]
                shown.update(len(ids))
        return found

    def scores(self, examples: Sequence[Example]) -> list[tuple[float, int]]:
        """The log-probability, in nats, of what is scored in each example (of its class, from a classifier), and of how
        many tokens it is.

        Raises UserError for an example that does not fit, or in which nothing is scored.
        """
        from generation.scoring import losses

        # one by one: some tasks pack several texts into a window
        encoded = [self.task.encode([example], self.tokenizer, self.max_length).items for example in examples]
        data = EncodedSet([item for items in encoded for item in items])
        found = losses(self.model, data, self.options.batch_size, self.tokenizer.pad_token_id)
        owners = np.repeat(np.arange(len(encoded)), [len(items) for items in encoded])
        sums, counts = (np.bincount(owners, values, len(encoded)) for values in (found.sums, found.counts))
        return [(-total, int(count)) for total, count in zip(sums.tolist(), counts.tolist(), strict=True)]

    def _prompt(self, asked: str | Mapping[str, str] | Example | Prompt) -> Prompt:
        return asked if isinstance(asked, Prompt) else self.encode(self.example(asked))

    def _texts(self, prompts: Sequence[np.ndarray], shown: bool = False, top: int | None = None) -> list[Text]:
        """A text of each prompt; `shown` and `top` as of it."""
        given = self.options
        limits = max_answer_tokens(prompts, given.max_new_tokens, self.model.config.n_positions)
        how = {"top": top, "penalise_prompt": not self.task.kind.repeats_prompt}
        return [
            Text(
                ids,
                given.sampler(next(self._made)),
                limit,
                self.end_ids,
                shown=StoppedText(self.tokenizer, given.stop) if shown else None,
                **how,
            )
            for ids, limit in zip(prompts, limits, strict=True)
        ]

    def _continued(self, texts: list[Text]) -> Iterator[tuple[Text, Token]]:
        """As of `running.continued`; what a text that is alone begins with need not be read again."""
        from generation import running

        rows = max(self.options.batch_size, self.options.draws)
        return running.continued(self.model, texts, rows, self._prefixes if len(texts) == 1 else None)

    def _drawn(self, prompts: list[np.ndarray]) -> Iterator[tuple[int, list[Generated]]]:
        """What is drawn after each prompt, with its place, once it is whole."""
        draws = self.options.draws
        texts = self._texts([ids for ids in prompts for _ in range(draws)], shown=bool(self.options.stop), top=0)
        places, left = {text: number // draws for number, text in enumerate(texts)}, [draws] * len(prompts)
        for text, token in self._continued(sorted(texts, key=lambda text: len(text.prompt))):
            place = places[text]
            left[place] -= token.ends is not None
            if token.ends and not left[place]:
                yield place, [each.result() for each in texts[place * draws : (place + 1) * draws]]

    def _searched(self, prompts: list[np.ndarray]) -> Iterator[tuple[int, list[Generated]]]:
        """The beams of each prompt, with its place. They are searched in left-padded batches of similar lengths."""
        from generation import beam

        given = self.options
        penalties = (given.length_penalty, given.no_repeat_ngram_size, given.repetition_penalty, given.early_stopping)
        how = (given.num_beams, given.max_new_tokens, self.end_ids, *penalties, not self.task.kind.repeats_prompt)
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        size = max(1, given.batch_size // given.num_beams)
        for start in range(0, len(order), size):
            some = order[start : start + size]
            found = beam.beam_search(self.model, [prompts[place] for place in some], *how, samples=given.samples)
            yield from zip(some, found, strict=True)

    def _likeliest(self, several: list[Generated]) -> list[Answer]:
        # beams have a score of their own, after the length penalty; equal ones stay in their order
        def rank(generated: Generated) -> float:
            """Higher is better: the beam's score, else the mean log-probability of a token."""
            return generated.score if generated.beam_score is None else generated.beam_score

        likeliest = sorted(several, key=rank, reverse=True)[: self.options.samples]
        return [Answer(self._text(generated), generated.score, generated.tokens) for generated in likeliest]

    def _text(self, generated: Generated) -> str:
        text = text_of(generated.all_ids, self.tokenizer) if generated.text is None else generated.text
        return text if self.task.kind.keeps_space else text.strip()
