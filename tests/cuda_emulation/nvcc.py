"""The stand-in for nvcc: translates its options for g++, and CUDA C++ to C++.

`home.py` puts it into a CUDA home as `bin/nvcc`. Options of nvcc that change nothing here are taken and ignored;
unknown ones are refused, as nvcc refuses them.
"""

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rewrite import CudaSyntaxError, rewrite

RELEASE, BUILD = "12.4", "12.4.127"
HOME = Path(__file__).resolve().parent.parent
VERSION = f"""nvcc: NVIDIA (R) Cuda compiler driver: an emulation of it for tests
Cuda compilation tools, release {RELEASE}, V{BUILD}
"""
ASIDE = {"-Xptxas", "-gencode", "-arch", "-code", "-maxrregcount", "-cudart", "-t", "-Xcudafe", "-diag-suppress"}
IGNORED = re.compile(
    r"-G|-g|-O\d|-w|-lineinfo|-arch=.*|-code=.*|-gencode=.*|-maxrregcount=.*|-cudart=.*|-t=?\d+|-rdc=.*|-Xptxas=.*"
    r"|-expt-(relaxed-constexpr|extended-lambda)|-extended-lambda|-Wno-deprecated-gpu-targets|-m64|-forward-unknown.*"
)
SHORT = ("-o", "-I", "-L", "-l", "-D", "-U", "-x")  # their value may follow at once
LONG = ("-include", "-isystem", "-ccbin", "-Xcompiler", "-Xlinker", "-std")  # or after a "="
# nvcc multiplies and adds in one step, and compares and branches as written; the sanitizers find what a device does
# not forgive: loads of a float4 that do not start at a multiple of 16 bytes, and places outside of an array
DEVICE = ["-O2", "-w", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing"]
CHECKED = ["-fsanitize=alignment,bounds", "-fno-sanitize-recover=all"]


@dataclass
class Command:
    """An nvcc command, in g++'s words."""

    inputs: list[str] = field(default_factory=list)
    preprocess: list[str] = field(default_factory=list)
    compile: list[str] = field(default_factory=list)
    link: list[str] = field(default_factory=list)
    output: str = "a.out"
    compiler: str = "g++"
    standard: str = "-std=c++17"
    only_compile: bool = False
    all_cuda: bool = False
    fast_math: bool = False


def parse(arguments: list[str]) -> Command:
    """Raises ValueError for an option that nvcc does not know."""
    command, rest = Command(), list(arguments)
    while rest:
        word = rest.pop(0)
        option = "-" + word.lstrip("-") if word.startswith("--") else word
        if option in ("-c", "-dc"):
            command.only_compile = True
        elif option == "-shared":
            command.link.append("-shared")
        elif option == "-use_fast_math":
            command.fast_math = True
        elif option in ASIDE:
            rest.pop(0)
        elif IGNORED.fullmatch(option):
            pass
        elif value := _value(option, rest):
            _take(command, *value)
        elif option.startswith("-"):
            raise ValueError(f"Unknown option '{word}'")
        else:
            command.inputs.append(word)
    return command


def _value(option: str, rest: list[str]) -> tuple[str, str] | None:
    """(option, value), whether they are written as one word, with `=`, or as two."""
    for name in (*SHORT, *LONG):
        if option == name:
            return name, rest.pop(0)
        if option.startswith(name if name in SHORT else name + "="):
            return name, option[len(name) :].removeprefix("=")
    return None


def _take(command: Command, option: str, value: str) -> None:
    if option == "-o":
        command.output = value
    elif option == "-x":
        command.all_cuda = value == "cu"
    elif option == "-ccbin":
        command.compiler = value
    elif option == "-std":
        command.standard = f"-std={value}"
    elif option == "-Xcompiler":
        command.compile += value.split(",")
    elif option == "-Xlinker":
        command.link.append(f"-Wl,{value}")
    elif option in ("-L", "-l"):
        command.link.append(option + value)
    elif option in ("-include", "-isystem"):
        command.preprocess += [option, value]
    else:
        command.preprocess.append(option + value)


def compile_cuda(command: Command, source: str, target: Path, folder: Path) -> None:
    """Compiles one source of CUDA C++ to an object file."""
    major, minor = RELEASE.split(".")
    defined = ["-D__CUDACC__", "-D__NVCC__", f"-D__CUDACC_VER_MAJOR__={major}", f"-D__CUDACC_VER_MINOR__={minor}"]
    if command.fast_math:
        defined.append("-D__USE_FAST_MATH__")
    options = [command.standard, *command.compile]
    included = [f"-I{HOME / 'include'}", "-include", "cuda_runtime.h", *command.preprocess]
    text = subprocess.run(
        [command.compiler, "-E", "-x", "c++", *options, *defined, *included, source],
        stdout=subprocess.PIPE,
        check=True,
        encoding="utf-8",
        errors="surrogateescape",
    ).stdout
    rewritten = folder / f"{target.name}.ii"
    rewritten.write_text(rewrite(text), encoding="utf-8", errors="surrogateescape")
    device = [*DEVICE, *CHECKED, *(["-freciprocal-math"] if command.fast_math else [])]
    subprocess.run(
        [command.compiler, "-c", "-x", "c++-cpp-output", *options, *device, str(rewritten), "-o", str(target)],
        check=True,
    )


def run(command: Command) -> None:
    with tempfile.TemporaryDirectory(prefix="nvcc-") as name:
        folder, objects = Path(name), []
        for number, source in enumerate(command.inputs):
            if Path(source).suffix in (".o", ".a", ".so"):
                objects.append(source)
                continue
            target = Path(command.output) if command.only_compile else folder / f"{number}.o"
            if command.all_cuda or Path(source).suffix == ".cu":
                compile_cuda(command, source, target, folder)
            else:
                words = [command.standard, *command.compile, *command.preprocess, f"-I{HOME / 'include'}"]
                subprocess.run([command.compiler, "-c", *words, source, "-o", str(target)], check=True)
            objects.append(str(target))
        if not command.only_compile:
            runtime = [f"-L{HOME / 'lib64'}", f"-Wl,-rpath,{HOME / 'lib64'}", "-lcudart"]
            shared = [option for option in command.compile if option == "-fPIC"]
            subprocess.run(
                [command.compiler, *shared, *objects, *command.link, *runtime, "-o", command.output], check=True
            )


def main(arguments: list[str]) -> int:
    if "--version" in arguments or "-V" in arguments:
        print(VERSION, end="")
        return 0
    try:
        run(parse(arguments))
    except (ValueError, CudaSyntaxError) as error:
        print(f"nvcc fatal   : {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
