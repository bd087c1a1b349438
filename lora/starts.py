"""How A and B begin, by PEFT's `init_lora_weights`. For `pissa` and `olora` the base's weight gives up s · (B A)ᵀ.

Arrays alone, float32; no Jittor here.
"""

import math

import numpy as np

from lora.config import LayerSettings
from lora.problems import PISSA_NITER

PISSA_SEED = 0  # of the start of `pissa_niter_N`: whoever reads the adapter has to find the same numbers again


def initial_matrices(inputs: int, outputs: int, rank: int, generator: np.random.Generator, init: bool | str):
    """A [rank, in] and B [out, rank] as PEFT draws them, without a look at the base. `init`: `init_lora_weights`.

    True: A by torch's kaiming_uniform(a=√5), that is U(±1/√fan_in), and B zeros. "gaussian": A is normal with
    deviation 1/rank. False: B is drawn like A, so that the adapter acts at once. "orthogonal": normal, over the even
    and the odd rows of one orthogonal matrix, so that B A is zero though neither is
    (https://datta0.github.io/posts/rethink-lora-init).
    """
    if init == "orthogonal":
        rows = np.linalg.qr(generator.standard_normal((rank, rank)))[0]
        a = (generator.standard_normal((inputs, rank // 2)) @ rows[0::2]).T / 10
        return a, generator.standard_normal((outputs, rank // 2)) @ rows[1::2] / 10
    if init == "gaussian":
        a = generator.standard_normal((rank, inputs)) / rank
    else:
        a = generator.uniform(-1, 1, (rank, inputs)) / math.sqrt(inputs)
    if init is False:
        return a, generator.uniform(-1, 1, (outputs, rank)) / math.sqrt(rank)
    return a, np.zeros((outputs, rank))


def taken_from(weight: np.ndarray, settings: LayerSettings) -> tuple[np.ndarray, np.ndarray]:
    """A [rank, in] and B [out, rank] that are a part of `weight` [in, out]: s · B A is what it has to give up.

    "pissa" (Meng et al. 2024): its `rank` largest singular values and vectors; "pissa_niter_N": found by N rounds of
    subspace iteration from random vectors. "olora" (Büyükakyüz 2024): the first vectors of a QR decomposition of its
    transpose, which PEFT forgets for GPT-2's orientation.
    """
    rank, scaling = settings.rank, settings.scaling
    if settings.start == "olora":
        q, r = np.linalg.qr(weight.T.astype(np.float64))  # [out, k], [k, in]
        return r[:rank].astype(np.float32), q[:, :rank].astype(np.float32)
    rounds = PISSA_NITER.fullmatch(settings.start)
    left, values, right = _largest(weight.T.astype(np.float64), rank, int(rounds[1]) if rounds else None)
    root = np.sqrt(values / scaling)
    return (root[:, None] * right).astype(np.float32), (left * root).astype(np.float32)


def _largest(matrix: np.ndarray, rank: int, rounds: int | None):
    """The `rank` largest singular values of a matrix [n, m], with vectors: [n, rank], [rank], [rank, m].

    With `rounds`, an approximation (Halko, Martinsson and Tropp 2011, algorithm 5.1), as torch.svd_lowrank makes it.
    """
    if rounds is None:
        return _largest_exactly(matrix, rank)
    start = np.random.default_rng(PISSA_SEED).standard_normal((matrix.shape[1], rank))
    basis = np.linalg.qr(matrix @ start)[0]
    for _ in range(rounds):
        basis = np.linalg.qr(matrix.T @ basis)[0]
        basis = np.linalg.qr(matrix @ basis)[0]
    left, values, right = np.linalg.svd(basis.T @ matrix, full_matrices=False)
    return (basis @ left)[:, :rank], values[:rank], right[:rank]


def _largest_exactly(matrix: np.ndarray, rank: int):
    """By the eigenvectors of the smaller of M Mᵀ and MᵀM, several times as fast as a whole decomposition of M.

    In float64, a value σ is known to about 1e-16 σ₁² / σ, enough for any that is worth a place among the largest.
    """
    if matrix.shape[0] > matrix.shape[1]:
        right, values, left = _largest_exactly(matrix.T, rank)
        return left.T, values, right.T
    squares, vectors = np.linalg.eigh(matrix @ matrix.T)  # ascending
    values, left = np.sqrt(np.maximum(squares[::-1][:rank], 0)), vectors[:, ::-1][:, :rank]
    right = np.divide(
        left.T @ matrix, values[:, None], where=values[:, None] > 0, out=np.zeros((rank, matrix.shape[1]))
    )
    return left, values, right
