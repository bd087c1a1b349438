"""What importing Jittor does to the whole process, undone.

Jittor ends the process on Ctrl-C and on SIGTERM, so that nothing could be saved; it switches off the checks of
HTTPS certificates; it allows recursion without end; it writes its compiler's progress over our bar.
"""

import contextlib
import os
import signal
import ssl
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGQUIT", "SIGCHLD") if hasattr(signal, name)]
JUPYTER = "JPY_PARENT_PID"  # where it is set, Jittor's core lets Ctrl-C be from its first moment


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """Puts back, at its end, what the import of Jittor changes."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    in_jupyter = os.environ.setdefault(JUPYTER, "0")
    verified_https, recursion_limit = ssl._create_default_https_context, sys.getrecursionlimit()
    try:
        yield
    finally:
        if in_jupyter == "0":
            del os.environ[JUPYTER]
        ssl._create_default_https_context = verified_https
        sys.setrecursionlimit(recursion_limit)
        if threading.current_thread() is threading.main_thread():  # nobody else may set handlers
            for number, handler in handlers.items():
                signal.signal(number, handler)


def ignore_flushed_subnormals() -> None:
    """Silences numpy's warning that numbers below 1e-38 are 0: kernels compiled with -Ofast set the processor so."""
    warnings.filterwarnings("ignore", message="The value of the smallest subnormal")


def silence_compiler(jittor) -> None:
    """Sends the C++ error stream of `jittor` through the filter of quiet.h."""
    header = Path(__file__).with_name("quiet.h").read_text(encoding="utf-8")
    jittor.code([1], "float32", [], cpu_header=header, cpu_src="quieten(); *out0_p = 0;").sync()
