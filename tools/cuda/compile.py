"""Compiles every CUDA kernel of training, validation and generation with a real nvcc, and prints what each takes.

What is compiled is what Jittor wrote down while the work ran on the emulated device (tests/cuda_emulation), once with
the composed operators and once with this project's kernels. Nothing runs on a GPU, and none is needed.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.profiling import description
from common.command import Parser, run_command
from common.errors import UserError, joined
from gpt2_jittor.runtime.cuda.driver import Driver, dotted
from gpt2_jittor.runtime.cuda.toolkit import Toolkit, find, own_programs_first
from tests.cuda_emulation import home

WIDE = 58  # characters for a kernel's name
ARCHITECTURES = (70, 75, 80, 86, 89, 90, 100, 120)
INSTALL = (
    "pip install -r requirements-cuda.txt, which is CUDA 13; or, for 11.8, Debian's nvidia-cuda-toolkit and g++-11 "
    "(non-free), and cc_path=g++-11"
)
_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<arch>\d+)'.*?(?P<spills>\d+) bytes spill stores"
    r".*?Used (?P<registers>\d+) registers(?:, \d+ barriers)?(?:, (?P<shared>\d+) bytes smem)?",
    re.S,
)


@dataclass
class Kernel:
    """What the compilers say of one kernel, for each architecture: registers, bytes spilled; static shared memory."""

    registers: dict[int, int]
    spills: dict[int, int]
    shared: int = 0


def find_nvcc() -> Toolkit:
    """A toolkit that Jittor can use. Raises UserError where there is none."""
    toolkit = find(Driver(), None)  # for no device of this machine, and no g++: cc_path is for whoever runs this
    if toolkit.problem:
        raise UserError(f"{toolkit.problem.what}: {INSTALL}")
    return toolkit


def run_on_emulator(kernels: bool) -> dict:
    """The report of `tools/cuda/operators.py`, with this project's kernels or without."""
    command = [sys.executable, "-m", "tests.cuda_emulation.run", sys.executable, "-m", "tools.cuda.operators"]
    variables = os.environ | {"GPT2_JITTOR_CUDA_KERNELS": str(int(kernels))}
    variables.pop("cc_path", None)  # the emulator compiles with the usual g++
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError(f"the emulated device ended with status {done.returncode}; make test-cuda-emulated says more")
    return json.loads(done.stdout.splitlines()[-1])


def sources(report: dict) -> dict[Path, str]:
    """The sources with kernels of their own, and what each computes."""
    found = {}
    for work in report["works"].values():
        for operator in work["operators"]:
            path = Path(operator["source"])
            if path.is_file() and "__global__" in path.read_text():
                found[path] = description(operator["key"])
    return found


def options(nvcc_flags: str) -> list[str]:
    """Of Jittor's options those that decide about the device's code: not the emulator's headers, nothing of linking."""
    emulated = str(home.build())
    kept = [flag for flag in shlex.split(nvcc_flags) if re.match(r"-I|-D(?!EMULATION)|-std|--use_fast_math", flag)]
    return [flag for flag in kept if emulated not in flag]


def compile_one(nvcc: str, flags: list[str], architectures: list[int], source: Path) -> dict[str, Kernel]:
    """The kernels of a source, by their names in C++. Raises UserError with nvcc's words where it refuses."""
    # of each an intermediate code of its own, as Jittor has on a machine with such a device
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in architectures]
    host = ["-ccbin", os.environ["cc_path"]] if "cc_path" in os.environ else []
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, *flags, *host, *targets, "-w", "-Xptxas", "-v", "-fatbin", "-x", "cu", source]
        variables = os.environ | own_programs_first(nvcc)
        done = subprocess.run(
            [*command, "-o", f"{folder}/out"], env=variables, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise UserError(f"nvcc refuses {source}: {done.stderr.strip()}")
    kernels = {}
    for said in _KERNEL.finditer(done.stderr):
        kernel = kernels.setdefault(said["name"], Kernel({}, {}))
        kernel.registers[int(said["arch"])] = int(said["registers"])
        kernel.spills[int(said["arch"])] = int(said["spills"])
        kernel.shared = max(kernel.shared, int(said["shared"] or 0))
    names = demangled(list(kernels))
    return dict(zip(names, kernels.values(), strict=True))


def demangled(names: list[str]) -> list[str]:
    """C++'s names without their parameters."""
    done = subprocess.run(["c++filt", *names], capture_output=True, text=True, check=True)
    return [re.sub(r"^(void )?(jittor::)?|\((?!anonymous).*$", "", line) for line in done.stdout.splitlines()]


def known_architectures(nvcc: str) -> list[int]:
    """Those of ARCHITECTURES that this nvcc knows."""
    said = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=False).stdout
    return [arch for arch in ARCHITECTURES if f"sm_{arch}" in said.split()] if said else list(ARCHITECTURES[:3])


def rows(kernels: dict[str, Kernel], what: str, architectures: list[int]) -> Iterator[str]:
    """A line for each kernel of one source: registers by architecture, then bytes spilled and bytes shared."""
    for name, kernel in sorted(kernels.items()):
        registers = " ".join(f"{kernel.registers.get(arch, '-'):>4}" for arch in architectures)
        named = f"generated: {what}" if name.startswith("func_") else name
        yield f"{named[:WIDE]:{WIDE}} {registers} {max(kernel.spills.values()):7} {kernel.shared:7}"


def try_each(nvcc: str, flags: list[str], architectures: list[int], found: list[Path]) -> Iterator[dict | UserError]:
    """Of each source its kernels, or what nvcc has against it."""

    def tried(source: Path) -> dict[str, Kernel] | UserError:
        try:
            return compile_one(nvcc, flags, architectures, source)
        except UserError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(tried, found)


def spilling(kernels: dict[str, Kernel]) -> Iterator[str]:
    """A line for each kernel that does not fit into registers: how many bytes, on which architectures."""
    for name, kernel in kernels.items():
        if spilt := ", ".join(f"sm_{arch} {size}" for arch, size in kernel.spills.items() if size):
            yield f"{name}: {spilt} bytes spilled"


def print_counts(reports: dict[str, dict]) -> None:
    """Prints how many operators, launches, products and copies each piece of work takes."""
    print(f"\n{'on the emulated device, 2 layers':38}{'operators':>12}{'launches':>10}{'products':>10}{'to host':>9}")
    for way, report in reports.items():
        for name, work in report["works"].items():
            counts, operators = work["counts"], sum(operator["count"] for operator in work["operators"])
            figures = f"{operators:12}{counts['launches']:10}{counts['products']:10}{counts['copies_to_host']:9}"
            print(f"{name + ', ' + way:38}{figures}")


def main() -> None:
    """Compiles every kernel and prints what it takes. Raises UserError where nvcc is missing or refuses one."""
    Parser(prog="python -m tools.cuda.compile", description=__doc__).parse_args()
    toolkit = find_nvcc()
    nvcc = toolkit.jittors_nvcc()
    architectures = known_architectures(nvcc)
    reports = {"composed": run_on_emulator(False), "kernels": run_on_emulator(True)}
    found = {path: what for report in reports.values() for path, what in sources(report).items()}
    flags = options(reports["kernels"]["nvcc_flags"])
    print(f"{len(found)} sources, {toolkit.nvcc} {dotted(toolkit.release)}; registers, bytes spilled, shared")
    heads = " ".join(f"{f'sm{arch}':>4}" for arch in architectures)
    print(f"{'kernel':{WIDE}} {heads} {'spilled':>7} {'shared':>7}")
    printed, spilt, refused = set(), [], []  # many sources hold a kernel of Jittor's headers, or differ in a type alone
    for result, what in zip(try_each(nvcc, flags, architectures, list(found)), found.values(), strict=True):
        if isinstance(result, UserError):
            refused.append(result)
            continue
        for row in rows(result, what, architectures):
            if row not in printed:
                print(row, flush=True)
            printed.add(row)
        spilt += spilling(result)
    print(f"\n{len(found)} sources for sm_{', sm_'.join(map(str, architectures))}: {len(refused)} refused")
    print("\n".join(dict.fromkeys(spilt)) or "no register is spilled")
    print_counts(reports)
    if refused:
        raise joined(refused[:1] + [UserError(f"{len(refused)} of {len(found)} sources are refused")])


if __name__ == "__main__":
    run_command(main)
