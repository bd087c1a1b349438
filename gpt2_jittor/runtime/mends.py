"""What Jittor 1.3.11 lacks for Python 3.13, for numpy 2 and for GPUs newer than Hopper: its sources, mended in passing.

Jittor's installed files stay as they are. Its Python sources are mended while they are imported, and a header of ours
(`headers/pyjt/numpy.h`) stands before its own. Both are for exactly this release: another one is refused.
"""

import importlib.abc
import importlib.machinery
import importlib.metadata
import re
import shutil
import sys
from pathlib import Path

from common.errors import UserError
from gpt2_jittor.runtime import overlay

RELEASE = "1.3.11.0"
HEADERS = Path(__file__).with_name("headers")
OURS = re.compile(r'-I"[^"]*/gpt2-jittor/headers-[0-9a-f]{12}" ?')
# module: what stands in it, once; what is to stand there
NEWER_PYTHONS = {  # since 3.13 (PEP 667) a function's locals() do not show what exec() has bound
    "jittor.compiler": ("mod = locals()[gen_name]", "mod = sys.modules[gen_name]"),
    "jittor_utils": ("mod = locals()[hash]", "mod = sys.modules[hash]"),
}
NEWER_DEVICES = {  # CUDA 12.8 is the first that compiles for Blackwell
    "jittor.compiler": ("    max_arch = 90\n", "    max_arch = 121 if nvcc_version >= [12, 8] else 90\n"),
}


def mend(device: str, flags: str) -> str:
    """Has Jittor's sources mended when they are imported for this device; the compiler's `flags`, with our headers.

    The flags may come from a process that has them, and be those of another home or another version. Raises UserError
    where another release of Jittor is installed than the one that this is for.
    """
    try:
        release = importlib.metadata.version("jittor")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("Jittor is not installed: run `make setup`, or see `python -m gpt2_jittor.doctor`") from None
    if release != RELEASE:
        raise UserError(f"Jittor {release} is installed, and {RELEASE} is what this runs on: run `make setup`")
    needed = [NEWER_PYTHONS] * (sys.version_info >= (3, 13)) + [NEWER_DEVICES] * (device == "cuda")
    sys.meta_path.insert(0, _Finder(needed))
    headers = sorted(path for path in HEADERS.rglob("*") if path.is_file())
    placed = overlay.placed(
        "headers", map(Path.read_bytes, headers), lambda new: shutil.copytree(HEADERS, new, dirs_exist_ok=True)
    )
    return f'-I"{placed}" ' + OURS.sub("", flags)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules to be mended where they are, and has them loaded mended."""

    def __init__(self, needed: list[dict]):
        self.mends = {name: [mends[name] for mends in needed if name in mends] for mends in needed for name in mends}

    def find_spec(self, fullname, path=None, target=None):
        """The module's own spec with another loader; None for all other modules."""
        if fullname not in self.mends:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            spec.loader = _Mended(spec.loader.name, spec.loader.path, self.mends[fullname])
        return spec


class _Mended(importlib.machinery.SourceFileLoader):
    """Loads a module from its mended source. What is compiled of it is not kept: __pycache__ is Jittor's."""

    def __init__(self, name: str, path: str, mends: list[tuple[str, str]]):
        super().__init__(name, path)
        self.mends = mends

    def get_code(self, fullname):
        """The code of the mended source. Raises UserError where a text to be mended is not there once."""
        source = self.get_source(fullname)
        for old, new in self.mends:
            if source.count(old) != 1:
                raise UserError(f"{self.path} is not that of Jittor {RELEASE}: install it again")
            source = source.replace(old, new)
        return compile(source, self.path, "exec", dont_inherit=True)
