"""Answers to many prompts: left-padded batches of similar lengths, all decoded the same way."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.terminal import bar
from datasets.example import Example, Task
from gpt2_jittor.config import GPT2Config
from gpt2_jittor.demand import check_decoding
from gpt2_jittor.sampling import Sampler, check_num_beams, make_sampler
from gpt2_jittor.tokenizer import text_of


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen. `best_of` answers are drawn, and the `samples` likeliest of them kept."""

    max_new_tokens: int = 80
    greedy: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False  # of the beams
    stop: tuple[str, ...] = ()
    samples: int = 1
    best_of: int = 1
    seed: int | None = None
    batch_size: int = 16
    end_ids: tuple[int, ...] | None = None  # each of them ends an answer; else the tokenizer's end token

    def sampler(self) -> Sampler:
        """What chooses the next token. Raises UserError for an option out of range."""
        return make_sampler(
            greedy=self.greedy,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram,
            seed=self.seed,
        )

    @property
    def streams(self) -> bool:
        """Whether an answer can be shown while it is made: nothing is chosen among several."""
        return self.num_beams == self.samples == self.best_of == 1

    def check(self, config: GPT2Config, inputs: int = 1) -> None:
        """Raises UserError where a model of this size cannot generate so much at once for so many inputs.

        It is known before the model is read.
        """
        if self.num_beams > 1:
            check_num_beams(self.num_beams, config.vocab_size)
        each = max(self.num_beams, self.samples, self.best_of)
        rows = each * min(inputs, max(1, self.batch_size // each))
        named = "{num_beams}" if self.num_beams > 1 else "{best_of} or {samples}" if each > 1 else "{batch_size}"
        check_decoding(config, rows, self.max_new_tokens, named + ", or {max_new_tokens}")

    def room(self, positions: int) -> int:
        """How long a prompt may be, so that the longest answer still fits into `positions`; half of them at least."""
        return max(1, positions - min(self.max_new_tokens, positions // 2))


@dataclass(frozen=True)
class Answer:
    """One answer; `score` is the mean log-probability of its tokens, `tokens` counts them, end token included.

    Its text goes on where the prompt ends where the task continues text; else it has no space around it.
    """

    text: str
    score: float
    tokens: int


class Answers:
    """A model that answers. The sampler lives as long as this, so a seed gives the same answers in the same order.

    `max_length`: the tokens of a prompt and its answer together, as in training; else all that the model can read.
    """

    def __init__(self, model, tokenizer, task: Task, decoding: Decoding, max_length: int | None = None):
        self.model, self.tokenizer, self.task, self.decoding = model, tokenizer, task, decoding
        self.sample = decoding.sampler()
        self.end_ids = (tokenizer.eos_token_id,) if decoding.end_ids is None else decoding.end_ids
        self.room = decoding.room(min(model.config.n_positions, max_length or model.config.n_positions))

    def prompts(self, example: Example) -> list[np.ndarray]:
        """The ids that answer it when they are continued. Raises UserError for what is too long."""
        return self.task.encode_prompt(example, self.tokenizer, self.room)

    def to(self, examples: Sequence[Example], progress: bool = False) -> list[list[Answer]]:
        """The answers to each example, `samples` of them, the likeliest first, from whichever of its windows.

        With `progress`, a bar shows prompts done, tokens a second and the time left.
        Raises UserError, naming the example, for a prompt that is too long.
        """
        windows = [(index, ids) for index, example in enumerate(examples) for ids in self._windows(example)]
        order = sorted(range(len(windows)), key=lambda place: len(windows[place][1]))
        size = max(1, self.decoding.batch_size // max(self.decoding.num_beams, self._draws))
        found: list[list] = [[] for _ in examples]
        with bar("answer", total=len(windows), unit="prompt", disable=not progress) as shown:
            tokens = 0
            for start in range(0, len(order), size):
                chosen = [windows[place] for place in order[start : start + size]]
                for (index, _), several in zip(chosen, self._generate([ids for _, ids in chosen]), strict=True):
                    found[index] += several
                    tokens += sum(each.tokens for each in several)
                speed = tokens / max(shown.format_dict["elapsed"], 1e-3)
                shown.set_postfix_str(f"{speed:,.0f} tokens/s", refresh=False)
                shown.update(len(chosen))
        return [self._kept(several) for several in found]

    @property
    def _draws(self) -> int:
        return max(self.decoding.best_of, self.decoding.samples)

    def _windows(self, example: Example) -> list[np.ndarray]:
        try:
            return self.prompts(example)
        except UserError as error:
            raise UserError(f"{example.source}: {error}" if example.source else str(error)) from None

    def _generate(self, prompts: list[np.ndarray]) -> list[list]:
        from gpt2_jittor.beam import beam_search
        from gpt2_jittor.generation import generate
        from gpt2_jittor.stopping import StopStrings

        given, ends = self.decoding, self.end_ids
        if given.num_beams > 1:
            penalties = (given.length_penalty, given.no_repeat_ngram, given.repetition_penalty, given.early_stopping)
            return beam_search(
                self.model, prompts, given.num_beams, given.max_new_tokens, ends, *penalties, samples=given.samples
            )
        stop = StopStrings(self.tokenizer, given.stop) if given.stop else None
        repeated = [ids for ids in prompts for _ in range(self._draws)]
        drawn = generate(self.model, repeated, self.sample, given.max_new_tokens, ends, stop)
        return [drawn[start : start + self._draws] for start in range(0, len(drawn), self._draws)]

    def _kept(self, several: list) -> list[Answer]:
        # beams have a score of their own, after the length penalty; equal ones stay in their order
        def rank(generated) -> float:
            """Higher is better: the beam's score, else the mean log-probability of a token."""
            return generated.score if generated.beam_score is None else generated.beam_score

        likeliest = sorted(several, key=rank, reverse=True)[: self.decoding.samples]
        return [Answer(self._text(generated), generated.score, generated.tokens) for generated in likeliest]

    def _text(self, generated) -> str:
        text = generated.text
        if text is None:
            text = text_of(generated.all_ids, self.tokenizer)
        return text if self.task.kind == "text" else text.strip()
