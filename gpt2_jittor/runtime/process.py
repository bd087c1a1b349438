"""What importing Jittor does to the whole process, undone.

Jittor ends the process on Ctrl-C and where a program that it started is ended by a signal, so that nothing could be
saved; it bears no handler of a signal on its stack; it keeps a pool of processes, and waits for them at the end; it
switches off the checks of HTTPS certificates; it allows recursion without end; it writes its compiler's progress over
our bar.
"""

import contextlib
import ctypes
import functools
import os
import signal
import ssl
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from common import memory
from common.interrupt import interrupts_deferred
from common.processes import cores

SIGNALS = [getattr(signal, name) for name in ("SIGQUIT", "SIGCHLD") if hasattr(signal, name)]  # it handles them, too
SIZE_OF_ACTION = 256  # bytes; more than `struct sigaction` has anywhere
SIZE_OF_STACK, NO_STACK = 1 << 16, 2  # bytes, more than any processor's registers take; SS_DISABLE of <signal.h>
MOST_COMPILERS, MEMORY_OF_COMPILER = 16, 3 << 30  # at a time, and what one may take: Jittor's own figures
BETWEEN_QUESTIONS = 0.05  # seconds, whether a compiler has ended
JUPYTER = "JPY_PARENT_PID"  # where it is set, Jittor's core lets Ctrl-C be from its first moment


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """Puts back, at its end, what the import of Jittor changes."""
    in_jupyter = os.environ.setdefault(JUPYTER, "0")
    verified_https, recursion_limit = ssl._create_default_https_context, sys.getrecursionlimit()
    try:
        yield
    finally:
        if in_jupyter == "0":
            del os.environ[JUPYTER]
        ssl._create_default_https_context = verified_https
        sys.setrecursionlimit(recursion_limit)


def keep_handlers(jittor_utils) -> None:
    """Has the handlers of signals put back as soon as Jittor's core is loaded.

    The import goes on to start programs. Where a signal to the group ends one of these, SIGCHLD reaches any thread:
    Jittor's own handler would end the process, from within malloc perhaps.
    """
    load = jittor_utils.try_import_jit_utils_core
    libc = ctypes.CDLL(None)

    def load_and_put_back(silent: bool | None = None) -> None:
        actions = {number: ctypes.create_string_buffer(SIZE_OF_ACTION) for number in SIGNALS}
        for number, action in actions.items():
            libc.sigaction(number, None, action)
        load(silent)
        for number, action in actions.items():  # signal.signal() would do so for the main thread alone
            libc.sigaction(number, action, None)

    jittor_utils.try_import_jit_utils_core = load_and_put_back


class Stack(ctypes.Structure):
    """`stack_t` of Linux's <signal.h>."""

    _fields_ = [("memory", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@functools.cache
def handlers_memory() -> ctypes.Array:
    """The stack that handlers run on. It is there as long as the process."""
    return ctypes.create_string_buffer(SIZE_OF_STACK)


def give_handlers_a_stack() -> None:
    """Lets Python's handlers run on a stack of their own in this thread, where they have none yet: on Linux alone.

    What a handler leaves on the thread's own stack, below what is in use, becomes part of what Jittor makes of an
    operator meanwhile: sources with garbage in them, an operator without outputs, a heap that is in disorder.
    """
    if sys.platform != "linux":
        return
    libc, before = ctypes.CDLL(None), Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    if before.flags & NO_STACK:
        own = Stack(ctypes.addressof(handlers_memory()), 0, SIZE_OF_STACK)
        libc.sigaltstack(ctypes.byref(own), None)


def compile_apart(commands: Sequence[str], cache_path: str, jittor_path: str, msg: str = "") -> None:
    """Runs compilations in processes that live no longer than they and that no signal to this one's group reaches.

    It stands in for `jittor_utils.run_cmds`, whose pool of processes lives as long as the program: a signal to the
    group ends them, and the pool then hangs or takes the program with it. Raises RuntimeError where one fails.
    """
    count = min(cores(), MOST_COMPILERS, max(1, memory.total() // MEMORY_OF_COMPILER), len(commands))
    taking, giving = os.pipe()
    os.write(giving, b"".join(number.to_bytes(2, "little") for number in range(len(commands))))
    os.close(giving)
    workers = []
    try:
        with interrupts_deferred(brief=True):  # no child is unknown to this process, or goes on with its work
            for _ in range(count):
                worker = os.fork()
                if not worker:
                    _compile_and_end(taking, commands, cache_path, jittor_path)
                workers.append(worker)
        for worker in list(workers):
            status = _awaited(worker)
            workers.remove(worker)
            if status:
                _kill(os.killpg, worker)  # the compiler that it ran, where it was killed itself
                raise RuntimeError("Jittor's sources could not be compiled; the compiler has said why")
    finally:
        os.close(taking)
        with interrupts_deferred(brief=True):
            _end(workers)


def _compile_and_end(taking: int, commands: Sequence[str], *paths: str) -> NoReturn:
    """All that a forked process does: what its parent is in the middle of is not its business.

    It compiles those of the commands whose numbers, of two bytes, it takes from a pipe.
    """
    try:
        import jittor_utils

        os.setsid()
        jittor_utils.pool_initializer()  # ends it with its parent
        while number := os.read(taking, 2):
            jittor_utils.do_compile([commands[int.from_bytes(number, "little")], *paths])
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _awaited(worker: int) -> int:
    """The status of a process, once it has ended.

    It is asked for again and again: a signal that comes right before a call that blocks until then would be heard then.
    """
    while True:
        ended, status = os.waitpid(worker, os.WNOHANG)
        if ended:
            return status
        time.sleep(BETWEEN_QUESTIONS)


def _end(workers: list[int]) -> None:
    """Kills forked processes and the compilers that they run, and waits for them."""
    for worker in workers:
        _kill(os.kill, worker)  # which may lead no group yet
        _kill(os.killpg, worker)
    for worker in workers:
        with contextlib.suppress(ChildProcessError):  # it had been waited for when a signal came
            os.waitpid(worker, 0)


def _kill(kill: Callable[[int, int], None], worker: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter: of a dead group, on macOS
        kill(worker, signal.SIGKILL)


def ignore_flushed_subnormals() -> None:
    """Silences numpy's warning that numbers below 1e-38 are 0: kernels compiled with -Ofast set the processor so."""
    warnings.filterwarnings("ignore", message="The value of the smallest subnormal")


def tame_compilers(jittor) -> None:
    """Sends the C++ error stream of `jittor` through the filter of quiet.h, and keeps signals from its compilers and
    its waits for a lock as uninterrupted.h says: on Linux alone.
    """
    headers = ["quiet.h"] + ["uninterrupted.h"] * (sys.platform == "linux")
    header = "\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in headers)
    led = "lead_interrupted_calls()" if sys.platform == "linux" else "1"
    done = jittor.code([1], "float32", [], cpu_header=header, cpu_src=f"quieten(); *out0_p = {led};")
    if not done.item():
        raise RuntimeError("this is not the Jittor that uninterrupted.h was written for")
