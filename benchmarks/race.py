"""The race: all contestants are started one after the other, then work in turn, so that noise falls on all of them.

On a device, where memory is scarce and noise is not, they can be given it one after the other.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Contestant:
    """A process to start: a module of the project (`benchmarks.ours`) or a script (`torch_side.py`).

    A script may be run by another Python than this one.
    """

    name: str
    program: str
    settings: dict
    python: str = sys.executable
    floor: str = ""  # the contestant below which its time cannot be; else the race's own

    @property
    def command(self) -> list[str]:
        """What starts it. A script's own folder is first on its path, so it does not see the project's packages."""
        is_script = self.program.endswith(".py")
        program = [str(ROOT / "benchmarks" / self.program)] if is_script else ["-m", self.program]
        return [self.python, *program, json.dumps(self.settings)]


@dataclass
class Result:
    """A contestant's seconds for each unit of work in each round, or why there are none."""

    seconds: list[list[float]] = field(default_factory=list)
    outcome: float | None = None  # the last loss, or the tokens made: shows that the same was done
    first_unit: float = float("nan")  # seconds, with what is compiled for it
    ready: float = float("nan")  # seconds from the start of the process to the end of the first unit
    peak_mb: float = float("nan")
    more: dict = field(default_factory=dict)  # what else was measured
    failure: str = ""
    floor: str = ""  # as the contestant's

    @property
    def median(self) -> float:
        """Seconds of a unit: the median over rounds of each round's median."""
        return statistics.median(statistics.median(units) for units in self.seconds)

    @property
    def total(self) -> float:
        """Seconds of all units together."""
        return sum(sum(units) for units in self.seconds)


class Process:
    """One started contestant."""

    def __init__(self, contestant: Contestant):
        self.result = Result(floor=contestant.floor)
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process; a pipe would fill up
        self.process = subprocess.Popen(
            contestant.command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
        )
        first = self._answer()
        if not self.result.failure:
            self.result.ready, self.result.first_unit = first["ready"], first["first_unit"]

    def run(self) -> None:
        """One round."""
        if not self.result.failure:
            answer = self._ask("run")
            if not self.result.failure:
                self.result.seconds.append(answer["seconds"])
                self.result.outcome = answer["result"]

    def stop(self) -> Result:
        """Ends the process and returns what it did."""
        if not self.result.failure:
            last = self._ask("stop")
            self.result.peak_mb, self.result.more = last.get("peak_mb", float("nan")), last.get("more", {})
        self.process.stdin.close()
        self.process.wait(timeout=60)
        return self.result

    def _ask(self, what: str) -> dict:
        with contextlib.suppress(BrokenPipeError):  # what it died of is told by _answer
            print(what, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        status = self.process.wait()
        self.said.seek(0)
        said = self.said.read().strip().splitlines()
        self.result.failure = said[-1] if said else f"ended with status {status}"
        return {}


def race_in_turn(contestants: list[Contestant], rounds: int, say: Callable, keep: Callable) -> dict[str, Result]:
    """`race` for a device, which may not have memory for all of them: each has all its rounds by itself.

    `keep(results)` is called with what there is after each of them.
    """
    results = {}
    for contestant in contestants:
        results |= race([contestant], rounds, say)
        keep(results)
    return results


def race(contestants: list[Contestant], rounds: int, say: Callable = print) -> dict[str, Result]:
    """Starts everybody, then lets them work in turn, `rounds` times; one that fails is left out, with its reason."""
    processes = {}
    for contestant in contestants:
        say(f"starting {contestant.name}")
        processes[contestant.name] = Process(contestant)
        if failure := processes[contestant.name].result.failure:
            say(f"  left out: {failure}")
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for process in processes.values():
            process.run()
    return {name: process.stop() for name, process in processes.items()}
