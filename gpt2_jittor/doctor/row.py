"""A row of the doctor's table, and what its checks have in common."""

import contextlib
import importlib.metadata
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import read_json

ROOT = Path(__file__).resolve().parents[2]
_PIP = f"{Path(sys.executable).name} -m pip install"
INSTALL = f"{_PIP} -r requirements.txt"
if sys.version_info >= (3, 13):
    INSTALL += f" && {_PIP} --no-deps -r requirements-jittor.txt"


@dataclass(frozen=True)
class Row:
    """One check: `status` is "ok", "warning" or "failed"; `mend` says what to do unless all is well."""

    name: str
    status: str
    found: str
    mend: str = ""


def installed(package: str) -> str | None:
    """The version of a package, from its metadata: nothing is imported. None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def run(*command: str | Path) -> tuple[bool, list[str]]:
    """Whether a command succeeds, and the lines it says; at least one."""
    try:
        ended = subprocess.run(command, capture_output=True, cwd=ROOT, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, [str(error)]
    return ended.returncode == 0, (ended.stderr + ended.stdout).strip().splitlines() or [""]


def jittor_cache() -> Path:
    """Where Jittor keeps what it compiles: it remembers the last JITTOR_HOME in its config.json."""
    home = os.environ.get("JITTOR_HOME")
    if not home:
        with contextlib.suppress(UserError):
            home = read_json(Path.home() / ".cache" / "jittor" / "config.json").get("JITTOR_HOME")
    return Path(home or Path.home(), ".cache", "jittor")
