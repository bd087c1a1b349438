"""The floor of this machine, as a contestant: what any program must at least do, and nothing else.

Training: the matrix products of a LoRA step, forward and with respect to the inputs (the weights are frozen), through
the fastest routine there is. Decoding: reading every weight once a token.
"""

import contextlib
import ctypes
import functools
import importlib.metadata
import json
import time
from pathlib import Path

import torch
from worker import serve


def train(settings: dict):
    """All products of one update, with the shapes of the real ones; attention's and LoRA's are left out.

    Each goes through the faster of PyTorch's and oneDNN's routines, whichever that is on this machine.
    """
    sizes, tokens = _sizes(settings), settings["batch"] * settings["time"]
    weights = {pair: torch.randn(pair) for pair, _ in sizes}
    wide = {width: torch.randn(tokens, width) for pair in weights for width in pair}
    outputs = {width: torch.empty(tokens, width) for width in wide}
    products = []
    for (narrow, broad), count in sizes:
        weight = weights[narrow, broad]
        forward = _fastest(wide[narrow], weight, outputs[broad], False)
        by_input = _fastest(wide[broad], weight, outputs[narrow], True)
        products += [forward, by_input] * count

    def update() -> float:
        for product in products:
            product()
        return 2.0 * 2 * tokens * sum(a * b * count for (a, b), count in sizes)

    return update


def _fastest(x, weight, out, transposed: bool):
    """The product of x with a weight, or with the transposed weight, by whichever routine is faster."""
    ways = [lambda: torch.mm(x, weight.t() if transposed else weight, out=out)]
    if onednn := _onednn():
        (m, k), n, flag = x.shape, out.shape[1], b"T" if transposed else b"N"

        def product() -> None:
            places = x.data_ptr(), k, weight.data_ptr(), weight.shape[1], 0.0, out.data_ptr(), n
            onednn(b"N", flag, m, n, k, 1.0, *places)

        ways.append(product)
    return min(ways, key=_seconds)


def _seconds(work) -> float:
    times = []
    for _ in range(3):
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
    """`new` times one product of a vector with every weight, each in a memory of its own: bound by reading them."""
    weights = [torch.randn(pair[1], pair[0]) for pair, count in _sizes(settings) for _ in range(count)]
    vectors = {pair[0]: torch.randn(pair[0]) for pair, _ in _sizes(settings)}

    def reading() -> float:
        for _ in range(settings["new"]):
            for weight in weights:
                torch.mv(weight, vectors[weight.shape[1]])
        return float(settings["new"] * settings["batch"])

    return reading


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
