"""The weights of a model that was never trained."""

import math
from collections.abc import Iterator

import numpy as np

from gpt2_jittor.checkpoint.config import GPT2Config


def initial_head(config: GPT2Config, rows: int, seed: int) -> np.ndarray:
    """A new head's weight, float32 [rows, width], as transformers draws it: normal, without a bias."""
    generator = np.random.default_rng([seed, rows])
    values = generator.standard_normal((rows, config.n_embd), dtype=np.float32)
    return values * np.float32(config.initializer_range)


def with_rows(table: np.ndarray, rows: int) -> np.ndarray:
    """A table of vectors, float32 [n, width], with `rows` of them: each new one is the mean of those that are there."""
    mean = table.mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.concatenate([table, np.broadcast_to(mean, (rows - len(table), table.shape[1]))])


def initial_weights(config: GPT2Config, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """GPT-2's initial weights without a head (Radford et al. 2019, section 2.3): yields (name, float32 array).

    Normal with the configuration's deviation; projections onto the residual stream by 1/√(2 n_layer) of it.
    """
    generator = np.random.default_rng(seed)
    width, inner = config.n_embd, config.mlp_size

    def normal(shape, scale=1.0):
        """float32 of this shape, drawn next from the one generator: the order of the calls decides the weights."""
        values = generator.standard_normal(shape, dtype=np.float32)
        return values * np.float32(config.initializer_range * scale)

    yield "transformer.wte.weight", normal((config.vocab_size, width))
    yield "transformer.wpe.weight", normal((config.n_positions, width))
    onto_residual = 1 / math.sqrt(2 * config.n_layer)
    for layer in range(config.n_layer):
        block = f"transformer.h.{layer}"
        yield f"{block}.attn.c_attn.weight", normal((width, 3 * width))
        yield f"{block}.attn.c_proj.weight", normal((width, width), onto_residual)
        yield f"{block}.mlp.c_fc.weight", normal((width, inner))
        yield f"{block}.mlp.c_proj.weight", normal((inner, width), onto_residual)
