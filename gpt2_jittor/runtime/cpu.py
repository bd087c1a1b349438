"""What this processor can do, as Linux tells it, and what oneDNN was told not to use. Needs no Jittor."""

import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
CAPS = (("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"), ("ONEDNN_CPU_ISA_HINTS", "DNNL_CPU_ISA_HINTS"))
# /proc/cpuinfo's words for instructions that multiply int8 and sum in int32, and how they are called
INT8 = {"amx_int8": "AMX", "avx512_vnni": "VNNI", "avx_vnni": "VNNI"}
BF16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512_BF16"}  # the same of bfloat16, summed in float32


def read() -> tuple[str, set[str]]:
    """The processor's name and its flags; what the system tells of it, and none, where it is not Linux."""
    name, flags = platform.processor() or platform.machine(), set()
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not on Linux
        lines = []
    for key, _, value in (line.partition(":") for line in lines):
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip().lower() in ("flags", "features"):
            flags.update(value.split())
    return name, flags


def caps() -> list[tuple[str, str]]:
    """What the environment lets oneDNN use, as (variable, value), where it says anything."""
    found = []
    for variables in CAPS:
        variable = next((variable for variable in variables if os.environ.get(variable)), None)
        if variable and os.environ[variable].upper() not in ("ALL", "DEFAULT", "NO_HINTS"):
            found.append((variable, os.environ[variable].upper()))
    return found


def int8_instructions() -> str:
    """ "AMX" or "VNNI" where oneDNN may multiply int8 by such instructions; "" where it cannot."""
    return _instructions(INT8, ("VNNI", "BF16", "AMX"))


def bf16_instructions() -> str:
    """ "AMX" or "AVX512_BF16" where oneDNN may multiply bfloat16 by such instructions; "" where it cannot."""
    return _instructions(BF16, ("BF16", "AMX"))


def _instructions(known: dict[str, str], allowing: tuple[str, ...]) -> str:
    """The first of them that the processor has, unless oneDNN is held below: its limit has none of these words."""
    _, flags = read()
    allowed = [value for variable, value in caps() if variable.endswith("MAX_CPU_ISA")]
    if any(not any(name in value for name in allowing) for value in allowed):
        return ""
    return next((name for flag, name in known.items() if flag in flags), "")
