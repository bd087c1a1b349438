"""The floor of this machine, as a contestant: what any program must at least do, and nothing else.

Training: the matrix products of a LoRA step, forward and with respect to the inputs (the weights are frozen), through
PyTorch's kernels, the fastest there are here. Decoding: reading every weight once a token, in whichever way is fastest.
"""

import ctypes
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from worker import serve


def train(settings: dict):
    """All products of one update, with the shapes of the real ones; attention's and LoRA's are left out."""
    sizes, tokens = _sizes(settings), settings["batch"] * settings["time"]
    shapes = [pair for pair, count in sizes for _ in range(count)]
    weights = {pair: torch.randn(pair) for pair, _ in sizes}
    inputs = {width: torch.randn(tokens, width) for pair in weights for width in pair}

    def products() -> float:
        for pair in shapes:
            torch.mm(inputs[pair[0]], weights[pair])
        for pair in reversed(shapes):
            torch.mm(inputs[pair[1]], weights[pair].t())
        return 2.0 * 2 * tokens * sum(a * b for a, b in shapes)

    return products


def decode(settings: dict):
    """`new` times every weight of the products is read, and nothing else: no program that needs them is faster.

    Of several ways to read them, the one that was fastest in five tries. A product of a vector with each is not among
    them: PyTorch's takes twice as long as the memory does.
    """
    count = sum(inputs * outputs * times for (inputs, outputs), times in _sizes(settings))
    weights = torch.randn(count)
    ways = {"torch.sum": weights.sum, "torch.dot": lambda: torch.dot(weights, weights), **_compiled(weights)}
    seconds = {name: min(_seconds(way) for _ in range(5)) for name, way in ways.items()}
    fastest = min(seconds, key=seconds.get)
    rates = ", ".join(f"{name} {weights.nbytes / each / 1e9:.0f}" for name, each in seconds.items())
    print(f"GB/s: {rates}", file=sys.stderr)

    def reading() -> float:
        for _ in range(settings["new"]):
            ways[fastest]()
        return float(settings["new"] * settings["batch"])

    return reading


def _compiled(weights) -> dict:
    """A loop in C++, where there is a compiler; Jittor needs one, too."""
    source = Path(__file__).with_name("reading.cpp")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "reading.so"
        flags = ["-Ofast", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        try:
            subprocess.run(["g++", *flags, source, "-o", library], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return {}
        read = ctypes.CDLL(str(library)).read_once
    read.argtypes, read.restype = (ctypes.c_void_p, ctypes.c_long), ctypes.c_float
    return {"a loop": lambda: read(weights.data_ptr(), weights.numel())}


def _seconds(work) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _sizes(settings: dict) -> list[tuple[tuple[int, int], int]]:
    """Each projection's (in, out), and how often it stands in the model."""
    config = json.loads((Path(settings["model"]) / "config.json").read_text(encoding="utf-8"))
    width, layers = config["n_embd"], config["n_layer"]
    inner = config.get("n_inner") or 4 * width
    blocks = [(width, 3 * width), (width, width), (width, inner), (inner, width)]
    return [*((pair, layers) for pair in blocks), ((width, config["vocab_size"]), 1)]


def prepare(settings: dict):
    """The unit of work that the settings name."""
    torch.set_grad_enabled(False)
    return {"train": train, "decode": decode}[settings["task"]](settings)


if __name__ == "__main__":
    serve(prepare)
