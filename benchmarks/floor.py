"""The floor of this machine, as a contestant: what any program must at least do, and nothing else.

Training: the matrix products of a LoRA step, forward and with respect to the inputs (the weights are frozen). Decoding:
reading every weight once a token. Both through PyTorch's kernels, the fastest there are here.
"""

import json
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
