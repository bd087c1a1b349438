"""How long a run will take, said once, when its first updates have shown it.

The first update of a process is left out: operators that are new on the machine are compiled in it.
"""

import statistics
from dataclasses import dataclass, field

UPDATES = 5  # that are enough to tell by
SECONDS = 10.0  # or as many as take so long together, two at least


@dataclass
class Forecast:
    """`update` takes what each update took and returns the forecast when it can be made, once.

    Updates differ in length: `step_tokens` is what one of them trains on in the mean. `validation_tokens` is what the
    `validations` still to come cost, as the tokens of so much training.
    """

    step_tokens: float
    validation_tokens: float
    validations: int
    compiled: bool = False
    said: bool = False
    speeds: list[float] = field(default_factory=list)  # seconds a token of each update
    seconds: float = 0.0

    def update(self, tokens: int, seconds: float, steps_left: int) -> str | None:
        """After an update of `tokens` in `seconds`."""
        if self.said or not self.compiled:
            self.compiled = True
            return None
        self.speeds.append(seconds / tokens)
        self.seconds += seconds
        if len(self.speeds) < 2 or (len(self.speeds) < UPDATES and self.seconds < SECONDS):
            return None
        self.said = True
        if not steps_left:
            return None
        speed = statistics.median_low(self.speeds)  # another one may have compiled something
        left = speed * (steps_left * self.step_tokens + self.validation_tokens)
        updates, validations = _several(steps_left, "more update"), _several(self.validations, "validation")
        return f"about {duration(left)} for {updates} ({_exact(speed * self.step_tokens)} s each) and {validations}"


def duration(seconds: float) -> str:
    """In two units at most: 45 s, 12 min, 3 h 20 min, 2 days 4 h."""
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, rest = divmod(round(minutes / 60), 24)
    return _several(days, "day") + (f" {rest} h" if rest else "")


def _several(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' if number > 1 else ''}"


def _exact(seconds: float) -> str:
    """Two digits."""
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"
