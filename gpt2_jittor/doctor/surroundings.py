"""The memory and the disk that training has on this machine, and its way to the hub: a check each."""

import contextlib
import os
import re
import shutil
import threading
import urllib.error
import urllib.request
from pathlib import Path

from common.memory import total
from gpt2_jittor.doctor.row import Row, jittor_cache

SCARCE, TOO_LITTLE = 2e9, 0.5e9  # bytes, of memory and of disk
HUB_SECONDS = 3


def memory() -> Row:
    """Memory that is free, or that this process may have where that is less, in GB."""
    known = [total()]
    with contextlib.suppress(OSError, TypeError):  # Linux only
        known.append(1024 * int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]))
    found = f"{min(known) / 1e9:,.1f} GB available"
    return Row("memory", _enough(min(known)), found, "use --model nano or a smaller --batch-size")


def disk() -> Row:
    """Free space in GB, for Jittor's cache and in this folder. Fails too where one of them cannot be written."""
    cache = jittor_cache()
    free = {}
    for folder in (next(path for path in (cache, *cache.parents) if path.exists()), Path.cwd()):
        if not os.access(folder, os.W_OK):
            return Row("disk", "failed", f"{folder} cannot be written", "change its owner or its permissions")
        free[folder] = shutil.disk_usage(folder).free
    found = "; ".join(f"{size / 1e9:,.1f} GB free in {folder}" for folder, size in free.items())
    return Row("disk", _enough(min(free.values())), found, "make room, or set JITTOR_HOME to a folder elsewhere")


def hub() -> Row:
    """Whether the hub answers within HUB_SECONDS and one more. Never fails: local folders need none."""
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    problem = ["no answer"]
    # A name server that does not answer holds urllib beyond its timeout; a thread can be left behind.
    asking = threading.Thread(target=lambda: problem.append(_unreachable(endpoint)), daemon=True)
    asking.start()
    asking.join(HUB_SECONDS + 1)
    if problem[-1]:
        mend = "local folders, the hub's cache and --model nano work offline; for a mirror set HF_ENDPOINT"
        return Row("hub", "warning", f"{endpoint} cannot be reached: {problem[-1]}", mend)
    return Row("hub", "ok", f"{endpoint} answers")


def _enough(size: float) -> str:
    return "ok" if size >= SCARCE else "warning" if size >= TOO_LITTLE else "failed"


def _unreachable(address: str) -> str:
    """Why this address cannot be reached; empty where a server answers, be it with a refusal."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=HUB_SECONDS).close()
    except urllib.error.HTTPError as error:
        return f"status {error.code}" if error.code >= 500 else ""
    except Exception as error:  # the network's, the proxy's, or a malformed address's
        return str(getattr(error, "reason", error))
    return ""
