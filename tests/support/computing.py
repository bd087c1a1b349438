"""A side that computes without a model: scripted or random text, at a pace of one's choosing, and what it was asked."""

import contextlib
import queue
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from common.errors import UserError
from generation.options import GenerationOptions
from generation.sampling import log_softmax
from serving.work import (
    END,
    LENGTH,
    Busy,
    Classification,
    Continuation,
    Embedding,
    Figures,
    Loading,
    Scoring,
    Served,
    Stopped,
    Token,
    Unloading,
)

FAVOURED = 30.0  # is added to the logit of the token that a script wants next
WIDTH = 8  # of embeddings


@dataclass
class Ticket:
    """Work that was taken; `cancelled` says whether somebody was no longer interested in it."""

    work: object
    deliver: object
    cancelled: bool = False
    done: bool = False
    generated: list[int] = field(default_factory=list)

    def cancel(self) -> None:
        self.cancelled = True


class FakeComputing:
    """Computing as `serving.work` describes it. The next token's logits follow from the token before it alone.

    `script`: ids that every answer says, then the end token; else what the sampler makes of random logits. `delay`:
    seconds before each token. `most`: so much is taken at once; Busy beyond.
    """

    def __init__(self, models: dict[str, Served], script=None, delay: float = 0.0, most: int = 1000):
        self.served, self.script, self.delay, self.most = dict(models), script, delay, most
        self.tickets: list[Ticket] = []
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._stop: float | None = None
        self.kept = 0  # of each prompt's tokens
        self.failing: Exception | None = None  # is delivered instead of results

    @property
    def models(self):
        return dict(self.served)

    def submit(self, work, deliver):
        if sum(not (ticket.done or ticket.cancelled) for ticket in self.tickets) >= self.most:
            raise Busy(7)
        ticket = Ticket(work, deliver)
        self.tickets.append(ticket)
        self._queue.put(ticket)
        return ticket

    def figures(self):
        done = sum(len(ticket.generated) for ticket in self.tickets)
        texts = [ticket for ticket in self.tickets if isinstance(ticket.work, Continuation)]
        running = sum(not (ticket.done or ticket.cancelled) for ticket in texts)
        return Figures(running, 2, 30, 4, done, 5)

    def run(self, between=None):
        """A token of each text in turn, until `stop`."""
        running: list[Ticket] = []
        while self._stop is None or (running and time.monotonic() < self._stop):
            with contextlib.suppress(queue.Empty):
                running.append(self._queue.get_nowait() if running else self._queue.get(timeout=0.02))
            if running and self.delay:
                time.sleep(self.delay)
            for ticket in running:
                self._advance(ticket)
            running = [ticket for ticket in running if not (ticket.done or ticket.cancelled)]

        for ticket in running:
            ticket.deliver(Stopped("the server ends"))

    def stop(self, grace: float) -> None:
        self._stop = time.monotonic() + grace

    def _advance(self, ticket: Ticket) -> None:
        if ticket.cancelled:
            return
        work = ticket.work
        if self.failing is not None:
            ticket.done = True
            ticket.deliver(self.failing)
        elif isinstance(work, Continuation):
            self._next(ticket, work)
        else:
            ticket.done = True
            ticket.deliver(self._result(work))

    def _next(self, ticket: Ticket, work: Continuation) -> None:
        served, said = self.served[work.model], ticket.generated
        ids = np.append(work.prompt, np.array(said, np.int64))
        logits = logits_after(int(ids[-1]), served.vocab_size)
        if self.script is not None:
            script = [*self.script, served.tokenizer.eos_token_id]
            logits[script[len(said) % len(script)]] += FAVOURED
        chosen = int(work.sample(logits[None], [ids])[0])
        said.append(chosen)
        ends = END if chosen in work.end_ids else LENGTH if len(said) == work.max_tokens else None
        ticket.done = ends is not None
        known = {} if work.top is None else scores(logits, chosen, work.top)
        ticket.deliver(Token(chosen, ends=ends, kept=0 if said[1:] else self.kept, **known))

    def _result(self, work):
        if isinstance(work, Scoring):
            vocab = self.served[work.model].vocab_size
            pairs = zip(work.ids[:-1].tolist(), work.ids[1:].tolist(), strict=True)
            return [Token(after, **scores(logits_after(before, vocab), after, work.top)) for before, after in pairs]
        if isinstance(work, Embedding):
            return np.resize(work.ids.astype(np.float32) / 7, WIDTH)
        if isinstance(work, Classification):
            labels = len(self.served[work.model].task.labels)
            shares = np.arange(1.0, labels + 1)
            return shares / shares.sum()
        if isinstance(work, Loading):
            if not (work.folder / "adapter_config.json").is_file():
                return UserError(f"{work.folder.name} holds no adapter: give another")
            base = next(iter(self.served.values()))
            self.served[work.name] = Served(**{**vars(base), "name": work.name, "parent": base.name})
            return self.served[work.name]
        assert isinstance(work, Unloading)
        del self.served[work.name]
        return None


def logits_after(token: int, vocab_size: int) -> np.ndarray:
    """Random logits, float32 [vocab], the same ones after the same token."""
    return np.random.default_rng(token).standard_normal(vocab_size).astype(np.float32)


def scores(logits: np.ndarray, token: int, top: int) -> dict:
    """A token's log-probability and the `top` likeliest tokens with theirs."""
    known = log_softmax(logits[None])[0]
    likeliest = np.argpartition(-known, top)[:top]
    likeliest = likeliest[np.argsort(-known[likeliest], kind="stable")]
    return {"log_prob": float(known[token]), "top": tuple((int(i), float(known[i])) for i in likeliest)}


def served(name: str, task, tokenizer, parent=None, positions=256, max_length=200, **options) -> Served:
    """A model of that name; what requests do not say is as OpenAI has it, unless `options` say otherwise."""
    settings = GenerationOptions(**{"temperature": 1.0, "top_p": 1.0, **options})
    return Served(name, task, tokenizer, settings, positions, max_length, len(tokenizer), parent, 1_700_000_000)


class Letters:
    """A tokenizer that costs nothing to load: as many tokens as letters, and 0, which ends a text. It only decodes."""

    eos_token_id, all_special_ids, added_tokens_decoder, chat_template = 0, [0], {}, None

    def __len__(self) -> int:
        return 27

    def decode(self, ids, **_) -> str:
        """The letters, without ends."""
        return "".join(chr(ord("a") + token - 1) for token in ids if token)

    def convert_ids_to_tokens(self, token: int) -> str:
        """A letter."""
        return self.decode([token])


class Running:
    """A FakeComputing that computes in a thread of its own, for the time of a `with`."""

    def __init__(self, computing: FakeComputing):
        self.computing = computing
        self._thread = threading.Thread(target=computing.run, daemon=True)

    def __enter__(self) -> FakeComputing:
        self._thread.start()
        return self.computing

    def __exit__(self, *_) -> None:
        self.computing.stop(0)
        self._thread.join(10)
