"""A folder that Jittor takes for a CUDA 13 toolkit: links to NVIDIA's files, wherever they are, and four files of ours.

Those are in `overlay/`: what Jittor 1.3.11, which was written for CUDA 11 and 12, does not know of CUDA 13. The folder
is in the user's cache (`runtime.overlay`). Its name follows from all that it links to: where a toolkit or a wheel has
moved, or has other files, there is another folder.
"""

import re
import shlex
from pathlib import Path

from gpt2_jittor.runtime import overlay
from gpt2_jittor.runtime.cuda import parts
from gpt2_jittor.runtime.cuda.parts import Place

OURS = Path(__file__).with_name("overlay")
LIBRARY = re.compile(r"(lib(?:cudart|cudadevrt|cublas|curand|nvrtc)[\w-]*\.(?:so|a))(?:\.[\d.]+)?")


def make(nvcc: str, elsewhere: dict[str, Place]) -> str:
    """The `nvcc` of the folder around this one and the parts that are elsewhere.

    A file, no link: Jittor follows links to find the headers and libraries beside it. Raises UserError where the folder
    cannot be written.
    """
    places = [parts.home(nvcc), *elsewhere.values()]
    links = _headers(places) | _libraries(places)
    ours = {str(path.relative_to(OURS)): path for path in OURS.rglob("*") if path.is_file()}
    texts = {name: path.read_text(encoding="utf-8") for name, path in ours.items() if name not in links}
    texts["bin/nvcc"] = texts["bin/nvcc"].replace("@NVCC@", shlex.quote(nvcc))

    def fill(folder: Path) -> None:
        for name, target in links.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(target)
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "bin" / "nvcc").chmod(0o755)

    return str(overlay.placed("cuda", [*sorted(links.items()), *sorted(texts.items())], fill) / "bin" / "nvcc")


def _headers(places: list[Place]) -> dict[str, str]:
    """NVIDIA's headers by their names in our folder; where two places have one, the first has it.

    Its cuda_runtime.h has another name there, by which ours includes it; of cub ours includes the next that is found.
    A distribution's, among everybody's headers, are found without us, and those must not come before the compiler's.
    """
    own, links = places[0].include, {}
    for include in (place.include for place in places):
        for path in sorted(include.iterdir()):
            if path.name == "cuda_runtime.h":
                links.setdefault("include/nvidia_cuda_runtime.h", str(path))
            elif include != parts.DISTRIBUTION_HEADERS and (include == own or not (own / path.name).exists()):
                links.setdefault(f"include/{path.name}", str(path))
    links.pop("include/cub", None)
    return links


def _libraries(places: list[Place]) -> dict[str, str]:
    """Each library by its name and, for the linker, by its name without a version."""
    links = {}
    for place in places:
        for path in sorted(place.libraries.iterdir()):
            if named := LIBRARY.fullmatch(path.name):
                for name in (path.name, named[1]):
                    links.setdefault(f"lib64/{name}", str(path))
    return links
