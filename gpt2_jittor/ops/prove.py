"""Compares CUDA kernels with their composed definitions, in a process that `verdicts.py` starts.

`prove(kernels, cache)` prints a JSON line [kernel, problem] for each, the problem empty where there is none; the first
line, of no kernel, says that the device can be used. A kernel that raises or ends the process is the last one: what
comes after it on the same device would not be its own.
"""

import importlib
import json
import os
import signal
import traceback
from collections.abc import Sequence

from gpt2_jittor.runtime import runtime

OPERATORS = {  # by the kernel's name, the module of its operator, whose `proofs` compare it
    "layer_norm": "layer_norm",
    "gelu_new": "activation",
    "dropout": "dropout",
    "attention": "attention",
    "cross_entropy": "head_loss",
    "adamw": "adamw",
    "projection": "linear",
    "lora": "lora_linear",
    "decode_step": "decode_step",
    "choose": "choose",
}
LIMIT = 1800  # seconds for a kernel, its compilation on a busy machine included: by then it hangs


def prove(kernels: Sequence[str], cache: str) -> None:
    """Proves each of the kernels, with Jittor's compiled operators in the folder `cache`, and ends the process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is for the log

    def say(kernel: str, problem: str) -> None:
        print(json.dumps([kernel, problem]), file=answers, flush=True)

    runtime.prepare("cuda")
    from gpt2_jittor.runtime.backend import jt

    jt.flags.cache_path = cache
    if (jt.array([1.0, 2.0]) * 3).sum().item() != 9:
        raise RuntimeError("the device does not compute")
    say("", "")
    for kernel in kernels:
        signal.alarm(LIMIT)
        try:
            say(kernel, problem_of(kernel))
        except Exception as error:
            traceback.print_exc()
            say(kernel, in_a_line(error))
            break
    os._exit(0)  # a device that has failed may not let Jittor end in peace


def problem_of(kernel: str) -> str:
    """What is wrong with a kernel on the device in use; empty where nothing is."""
    import numpy as np

    from gpt2_jittor.ops import proof

    module = importlib.import_module(f"gpt2_jittor.ops.{OPERATORS[kernel]}")
    return proof.problem(module.proofs(np.random.default_rng(0)))


def in_a_line(error: Exception) -> str:
    """What Jittor says went wrong: it puts the reason after a page about where."""
    if "during compilation" in str(error):
        return "it does not compile"  # the compiler's own words are in the log
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith("Reason:")] or lines or [type(error).__name__]
    return reasons[-1].removeprefix("Reason:").strip()[:200]
