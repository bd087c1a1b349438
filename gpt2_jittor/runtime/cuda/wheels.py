"""Installs the CUDA toolkit of requirements-cuda.txt where it is what this machine lacks: what `make setup` runs.

That is where the driver is of CUDA 13.0 or newer, every visible device of compute capability 7.5 or newer, and there is
no toolkit that Jittor can use.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from common.command import Parser, run_command
from common.errors import UserError
from gpt2_jittor.runtime.cuda import bounds, parts, toolkit
from gpt2_jittor.runtime.cuda import driver as drivers
from gpt2_jittor.runtime.cuda.driver import Driver, dotted
from gpt2_jittor.runtime.cuda.problem import Problem

PINS = Path(__file__).resolve().parents[3] / "requirements-cuda.txt"
PIN = re.compile(r"^(?P<name>[\w-]+)==(?P<version>[\w.]+)  # (?P<megabytes>\d+) MB", re.MULTILINE)


@dataclass(frozen=True)
class Wheel:
    """A line of requirements-cuda.txt; `megabytes` is what it takes to download."""

    name: str
    version: str
    megabytes: int


def pinned() -> list[Wheel]:
    """The wheels of requirements-cuda.txt."""
    text = PINS.read_text(encoding="utf-8")
    return [Wheel(pin["name"], pin["version"], int(pin["megabytes"])) for pin in PIN.finditer(text)]


def absent() -> list[Wheel]:
    """Those that this environment does not have in that version."""
    return [wheel for wheel in pinned() if parts.version_of(wheel.name) != wheel.version]


def problem(driver: Driver) -> Problem | None:
    """What keeps Jittor from using the devices, None where nothing does."""
    return toolkit.find(driver, shutil.which(os.environ.get("cc_path") or "g++")).problem


def main() -> None:
    """Says in a line what it installs, or what else a machine with a device lacks. Raises UserError where pip fails."""
    Parser(prog="python -m gpt2_jittor.runtime.cuda.wheels", description=__doc__).parse_args()
    driver = drivers.ask()
    if not driver.devices:
        return
    lacking = problem(driver)
    if lacking and bounds.wheels_fit(driver) and (wheels := absent()):
        size = sum(wheel.megabytes for wheel in wheels)
        print(
            f"\n== installing CUDA {dotted(bounds.WHEELS)} for {driver.devices[0].name}: {size} MB to download, from "
            "NVIDIA's packages on PyPI (`make setup CUDA=0` does without)",
            flush=True,
        )
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-r", str(PINS)]
        if subprocess.run(pip, check=False).returncode:
            raise UserError(f"pip could not install {PINS.name}: try again, or `make setup CUDA=0` for the CPU alone")
        lacking = problem(driver)
    if lacking:
        print(f"{driver.devices[0].name} cannot be used yet: {lacking}")


if __name__ == "__main__":
    run_command(main)
