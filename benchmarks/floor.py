"""The floor of this machine, as a contestant: what any program must at least do, and nothing else.

Training: the matrix products of a LoRA step, forward and with respect to the inputs (the weights are frozen), through
the fastest routine there is. Decoding: reading every weight once a token, in whichever way is fastest.
"""

import contextlib
import ctypes
import functools
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from worker import serve


def train(settings: dict):
    """All products of one update, with the shapes of the real ones; attention's and LoRA's are left out, as are those
    that nobody needs: the gradient below the first adapter, and the logits of last tokens.

    Each goes through the faster of PyTorch's and oneDNN's routines, whichever that is on this machine; in bf16, with
    numbers that are rounded already, through PyTorch's.
    """
    sizes, tokens = _sizes(settings), settings["batch"] * settings["time"]
    dtype = torch.bfloat16 if settings.get("precision") == "bf16" else torch.float32
    weights = {pair: torch.randn(pair, dtype=dtype) for pair, _ in sizes}
    wide = {width: torch.randn(tokens, width, dtype=dtype) for pair in weights for width in pair}
    outputs = {width: torch.empty(tokens, width, dtype=dtype) for width in wide}
    products, operations = [], 0.0
    for place, ((narrow, broad), count) in enumerate(sizes):
        weight, rows = weights[narrow, broad], tokens
        if place == len(sizes) - 1:  # the head
            rows -= settings["batch"]
        forward = _fastest(wide[narrow][:rows], weight, outputs[broad][:rows], False)
        by_input = _fastest(wide[broad][:rows], weight, outputs[narrow][:rows], True)
        backward = count - (place == 0)  # nothing is trained below the first c_attn
        products += [forward] * count + [by_input] * backward
        operations += 2.0 * rows * narrow * broad * (count + backward)

    def update() -> float:
        """One unit: how many floating-point operations it took."""
        for product in products:
            product()
        return operations

    return update


def _fastest(x, weight, out, transposed: bool):
    """The product of x with a weight, or with the transposed weight, by whichever routine is faster."""
    ways = [lambda: torch.mm(x, weight.t() if transposed else weight, out=out)]
    if x.dtype == torch.float32 and (onednn := _onednn()):
        (m, k), n, flag = x.shape, out.shape[1], b"T" if transposed else b"N"

        def product() -> None:
            """x @ weight, or x @ weightᵀ, into `out`, by oneDNN."""
            places = x.data_ptr(), k, weight.data_ptr(), weight.shape[1], 0.0, out.data_ptr(), n
            onednn(b"N", flag, m, n, k, 1.0, *places)

        ways.append(product)
    return min(ways, key=_seconds)


def _seconds(work) -> float:
    """The shortest of a few times."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


@functools.cache
def _onednn():
    """oneDNN's sgemm as pip installs it for this project, None where it is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, OSError, AttributeError):
        files = importlib.metadata.files("onednn-cpu-gomp") or []
        library = next((file for file in files if file.name == "libdnnl.so.2"), None)
        if library:
            sgemm = ctypes.CDLL(str(library.locate().resolve())).dnnl_sgemm
            long, real, at = ctypes.c_long, ctypes.c_float, ctypes.c_void_p
            sgemm.argtypes = [ctypes.c_char] * 2 + [long] * 3 + [real, at, long, at, long, real, at, long]
            return sgemm
    return None


def decode(settings: dict):
    """`new` times every weight of the products is read, and nothing else: no program that needs them is faster. They
    have `bytes` each, else the 4 of a float32.

    Of several ways to read them, the one that was fastest in five tries. A product of a vector with each is not among
    them: PyTorch's takes twice as long as the memory does.
    """
    count = sum(inputs * outputs * times for (inputs, outputs), times in _sizes(settings))
    weights = torch.randn(count * settings.get("bytes", 4) // 4)  # read as floats, whatever they stand for
    ways = {"torch.sum": weights.sum, "torch.dot": lambda: torch.dot(weights, weights), **_compiled(weights)}
    seconds = {name: _seconds(way) for name, way in ways.items()}
    fastest = min(seconds, key=seconds.get)
    rates = ", ".join(f"{name} {weights.nbytes / each / 1e9:.0f}" for name, each in seconds.items())
    print(f"GB/s: {rates}", file=sys.stderr)

    def reading() -> float:
        """One unit: how many tokens it stands for."""
        for _ in range(settings["new"]):
            ways[fastest]()
        return float(settings["new"] * settings["batch"])

    reading.more = {"bytes_read": settings["new"] * weights.nbytes}
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
