"""A contestant's process: it gets ready, then does a round of its work whenever the race asks for one.

It reads its settings as JSON from the command line and answers in JSON lines; whatever libraries print goes to
stderr.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


def serve(prepare: Callable[[dict], Callable[[], float]]) -> None:
    """Runs a contestant: `prepare(settings)` gives the function that does one unit of work and returns its loss.

    A round is settings["repeat"] units, each timed. The first unit, compilation and all, is reported apart, counted
    from the start of the process. Long work names a part of itself as its attribute `first`: that stands for the
    unit until the rounds begin. Work on a device or in another process names, as its attribute `memory_mb`, what
    tells the memory that it takes there; else it is this process's own that is told. What else is measured stands in
    the work's attribute `more`; `stop` ends what it has started.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**message) -> None:
        """One line of JSON to the race."""
        print(json.dumps(message), file=answers, flush=True)

    settings = json.loads(sys.argv[1])
    work = prepare(settings)
    first, memory_mb = getattr(work, "first", work), getattr(work, "memory_mb", most_mb)
    begun = time.time()
    first()
    ready = {"ready": time.time() - _process_start(), "first_unit": time.time() - begun}
    first()  # what a second unit still compiles or allocates is no part of a round either
    say(**ready)  # not before: the next one starts, or the race begins, when this one rests
    peak_mb = memory_mb()
    for line in sys.stdin:
        if line.strip() != "run":
            break
        seconds, result = [], None
        for _ in range(settings["repeat"]):
            started = time.perf_counter()
            result = work()
            seconds.append(time.perf_counter() - started)
            peak_mb = max(peak_mb, memory_mb())
        say(seconds=seconds, result=result)
    say(peak_mb=peak_mb, more=getattr(work, "more", {}))
    getattr(work, "stop", lambda: None)()


def parts_of_epoch(update: Callable[[], float], batches: int, parts: int) -> Callable[[], float]:
    """An epoch as `parts` units of work, for contestants to take turns in; each `update` takes the next batch."""
    ends = [batches * part // parts for part in range(parts + 1)]
    counts = itertools.cycle(end - start for start, end in itertools.pairwise(ends))

    def part() -> float:
        """The next part's updates; the last one's loss."""
        return [update() for _ in range(next(counts))][-1]

    part.first = update
    return part


def most_mb(pid: int | str = "self") -> float:
    """The most memory that a process has held so far.

    `getrusage` would count what the process that started it had held until then, too.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _process_start() -> float:
    """When this process was started, in seconds of `time.time`; Linux tells it in ticks since the boot."""
    with open("/proc/self/stat", encoding="utf-8") as file:  # noqa: PTH123 - a pseudo-file
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime", encoding="utf-8") as file:  # noqa: PTH123
        uptime = float(file.read().split()[0])
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
