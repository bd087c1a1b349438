"""The thread that computes: takes in work, and goes on with all of it by turns.

Each turn reads up to `piece` tokens of the prompts that wait, a piece of one and then of the next, does one thing that
is done at once, and makes one token of every text. So a long prompt stops nobody, and a short one need not wait for the
end of a long answer.
"""

import contextlib
import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from common.errors import UserError
from common.memory import give_back
from generation.prefixes import common_beginning
from generation.running import Reading, Running, goes_on
from generation.sampling import make_sampler
from generation.text import Text, max_answer_tokens
from generation.token import Token
from serving.measure import measured
from serving.models import Models, Place
from serving.ticket import Ticket, report
from serving.work import (
    Busy,
    Continuation,
    Figures,
    Loading,
    Served,
    Stopped,
    Unloading,
    Work,
)

RETRY_AFTER = 2  # seconds, to those who are not taken


class Batcher:
    """`work.Computing`: made and run in one thread, spoken to from any."""

    def __init__(self, models: Models, piece: int = 128, most_waiting: int = 64):
        self._models, self._piece, self._most_waiting = models, piece, most_waiting
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()  # guarded by _changed; all else is the computing thread's alone
        self._reading: deque[tuple[Ticket, Reading]] = deque()
        self._texts: dict[Text, Ticket] = {}
        self._leaving: list[Place] = []
        self._counts = dict.fromkeys(("prompt_tokens", "cached_tokens", "generated_tokens", "steps"), 0)
        self._deadline: float | None = None

    @property
    def models(self) -> Mapping[str, Served]:
        """As of `work.Computing`."""
        return self._models.served

    def submit(self, work: Work, deliver: Callable[[Any], None]) -> Ticket:
        """As of `work.Computing`."""
        ticket = Ticket(work, deliver)
        with self._changed:
            taken = len(self._waiting) + len(self._reading) + len(self._texts)
            if self._deadline is not None or taken >= self._models.most_rows + self._most_waiting:
                raise Busy(RETRY_AFTER)
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def figures(self) -> Figures:
        """As of `work.Computing`."""
        waiting = len(self._waiting) + len(self._reading)
        return Figures(running=len(self._texts), waiting=waiting, **self._counts)

    def warm_up(self) -> None:
        """Continues two texts alike with each model and one of its adapters: nobody will wait for a compiler."""
        kinds = {(id(place.loaded), place.adapter is None): name for name, place in self._models.places.items()}
        for name in kinds.values():
            for length in (3, 12) if self.models[name].task.kind.generates else ():
                work = Continuation(name, np.zeros(length, np.int64), 3, make_sampler(greedy=True), frozenset())
                self.submit(work, lambda token: None)
                while self._busy():
                    self.turn()
        for counted in self._counts:
            self._counts[counted] = 0

    def stop(self, grace: float) -> None:
        """Takes nothing more; `run` returns when all is done, after `grace` seconds at the latest."""
        with self._changed:
            self._deadline = time.monotonic() + grace
            self._changed.notify()

    def run(self, between: Callable[[], None] = lambda: None) -> None:
        """Computes until `stop`, and calls `between` between two turns. What is not finished then is told so."""
        while not (self._over() or (self._deadline is not None and not self._busy())):
            self.turn()
            between()
        for ticket in [*self._waiting, *self._begun()]:
            ticket.tell(Stopped("the server ends"))

    def turn(self) -> None:
        """One turn; waits where there is nothing to do."""
        with self._changed:
            while self._deadline is None and not self._busy():
                self._changed.wait()
        self._let_go()
        self._take_in()
        self._read(self._piece)
        self._step_all()
        if self._finish_unloading():
            gc.collect()  # a model of its own stands in a circle of references, and is large
            give_back()

    def _begun(self) -> list[Ticket]:
        """The texts that are being read or continued."""
        return [*(ticket for ticket, _ in self._reading), *self._texts.values()]

    def _busy(self) -> bool:
        return bool(self._waiting or self._reading or self._texts)

    def _over(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _let_go(self) -> None:
        """Forgets what was cancelled."""
        with self._changed:
            self._waiting = deque(ticket for ticket in self._waiting if not ticket.cancelled)
        self._reading = deque(pair for pair in self._reading if not pair[0].cancelled)
        for text, ticket in list(self._texts.items()):
            if ticket.cancelled:
                self._end(text)

    def _take_in(self) -> None:
        """Begins with texts that wait, in their order, where their model has room; does one piece of other work."""
        with self._changed:
            waiting, self._waiting = self._waiting, deque()
        left, at_once = [], None
        for ticket in waiting:
            if isinstance(ticket.work, Continuation):
                if self._has_room(ticket.work):
                    with self._telling(ticket):
                        self._begin(ticket)
                    continue
            elif at_once is None:
                at_once = ticket
                continue
            left.append(ticket)
        with self._changed:
            self._waiting.extendleft(reversed(left))  # before those that have come meanwhile
        if at_once is not None:
            with self._telling(at_once):
                at_once.tell(self._done(at_once.work))

    def _has_room(self, work: Continuation) -> bool:
        place = self._models.places.get(work.model)
        if place is None:
            return True  # it will be told
        return sum(ticket.place.loaded is place.loaded for ticket in self._begun()) < place.loaded.running.most

    def _begin(self, ticket: Ticket) -> None:
        work, place = ticket.work, self._place(ticket.work.model)
        ticket.place = place
        (limit,) = max_answer_tokens([work.prompt], work.max_tokens, place.loaded.model.config.n_positions)
        if limit < 1:
            raise UserError("at least one token must be asked for")
        how = {"adapter": place.adapter, "top": work.top, "penalise_prompt": work.penalise_prompt}
        self._reading.append((ticket, Reading([Text(work.prompt, work.sample, limit, work.end_ids, **how)])))

    def _read(self, most: int) -> None:
        """Reads so many tokens of the prompts, by turns; those that are read to their end join the others."""
        while self._reading and most > 0:
            ticket, reading = next(pair for pair in self._reading if not self._is_being_read(*pair))
            self._reading.remove((ticket, reading))
            with self._telling(ticket):
                running, begun, before = ticket.place.loaded.running, bool(reading.cache.length), reading.computed
                events = running.read(reading, most)
                most -= reading.computed - before
                if not begun:
                    self._counts["prompt_tokens"] += len(reading.texts[0].prompt)
                    self._counts["cached_tokens"] += reading.kept
                if not events:
                    self._reading.append((ticket, reading))
                for text, event in events:
                    if goes_on(event):
                        self._texts[text] = ticket
                    self._tell(ticket, event)
                if events:
                    _try(running.keep_prompt, reading)

    def _is_being_read(self, ticket: Ticket, reading: Reading) -> bool:
        """Whether a prompt is better begun when another one is read, with which it has the next piece in common."""
        ids, own = reading.texts[0].ids, ticket.place
        piece = min(self._piece, len(ids) - 1)
        return (
            bool(piece)
            and not reading.cache.length
            and any(
                other.cache.length and there.place == own and common_beginning(other.texts[0].ids, ids) >= piece
                for there, other in self._reading
            )
        )

    def _step_all(self) -> None:
        for loaded in {id(ticket.place.loaded): ticket.place.loaded for ticket in self._texts.values()}.values():
            self._step(loaded.running)

    def _step(self, running: Running) -> None:
        """One token of each of a model's texts."""
        try:
            events = running.step()
            self._counts["steps"] += 1
        except Exception as error:
            report(error)
            for text in list(running.texts):
                self._end(text, keep=False).tell(error)
            return
        for text, event in events:
            going = goes_on(event)
            ticket = self._texts[text] if going else self._end(text, keep=isinstance(event, Token))
            self._tell(ticket, event)

    def _tell(self, ticket: Ticket, event: Token | Exception) -> None:
        if isinstance(event, Token):
            self._counts["generated_tokens"] += 1
            ticket.tell(event)
        else:
            self._tell_error(ticket, event)

    def _end(self, text: Text, keep: bool = True) -> Ticket:
        """A text leaves the others; its keys and values are kept for one that begins like it. Whose it was."""
        ticket = self._texts.pop(text)
        running = ticket.place.loaded.running
        if keep:
            _try(running.keep, text)
        running.leave([text])
        return ticket

    def _done(self, work: Work) -> Any:
        """What comes of work that is done at once."""
        if isinstance(work, Loading):
            return self._models.load(work.name, work.folder)
        if isinstance(work, Unloading):
            self._leaving.append(self._models.unload(work.name))
            return None
        place = self._place(work.model)
        place.loaded.running.choose_adapters([place.adapter])
        return measured(place.loaded.model, work)

    def _place(self, name: str) -> Place:
        if name not in self._models.places:  # it was unloaded while this waited
            raise UserError(f"there is no model {name!r}")
        return self._models.places[name]

    def _finish_unloading(self) -> bool:
        """Takes out the adapters that nothing uses any more; whether one of them was a model of its own."""
        used = [ticket.place for ticket in self._begun()]
        free, self._leaving = (
            [place for place in self._leaving if (place in used) is wanted] for wanted in (False, True)
        )
        for place in free:
            if place.adapter is not None:
                place.loaded.remove(place.adapter)
        return any(place.adapter is None for place in free)

    @contextlib.contextmanager
    def _telling(self, ticket: Ticket):
        """What is raised within is told to who asked."""
        try:
            yield
        except Exception as error:
            self._tell_error(ticket, error)

    def _tell_error(self, ticket: Ticket, error: Exception) -> None:
        if not isinstance(error, UserError):
            report(error)
        ticket.tell(error)


def _try(act: Callable, *arguments) -> None:
    """Keeps what texts to come may begin with; where that fails, no text is harmed."""
    try:
        act(*arguments)
    except Exception as error:
        report(error)
