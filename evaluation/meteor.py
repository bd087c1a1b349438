"""METEOR 1.5 (Denkowski and Lavie 2014), which is a Java program: it is measured where that and Java are there.

pycocoevalcap 1.2 brings the program, and its words that mean the same. It counts what a text shares with its best
reference; the score is made of these counts here, so that resamples need it no more.
"""

import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from common.errors import UserError
from evaluation.metrics import Statistic

JAR, PACKAGE = "meteor-1.5.jar", "pycocoevalcap"
# the program's own for English: of exact, stemmed, synonymous and paraphrased matches, and of what is made of them
WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.20, 0.60, 0.75
COUNTS = 23  # of each text


def meteor_of(texts: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> Statistic:
    """METEOR, 0 to 100, of texts' words against several references' each, for `metrics.bootstrap`.

    Raises UserError, saying what is missing, where it cannot be measured.
    """
    lines = [
        " ||| ".join(["SCORE", *(_joined(reference) for reference in several), _joined(own)])
        for own, several in zip(texts, references, strict=True)
    ]
    counts = _run(lines)
    return lambda indexes: 100 * _score(counts[indexes].sum(0))


def program() -> list[str]:
    """The command that starts it. Raises UserError where Java or the package is missing."""
    java = shutil.which("java")
    if java is None:
        raise UserError("METEOR needs Java, which is not there")
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    jar = next((Path(file.locate()) for file in files if file.name == JAR), None)
    if jar is None or not jar.is_file():
        raise UserError(f"METEOR needs {JAR}: pip install --no-deps {PACKAGE}==1.2 brings it")
    return [java, "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]


def _joined(words: Sequence[str]) -> str:
    return " ".join(words).replace("|||", "")


def _run(lines: Sequence[str]) -> np.ndarray:
    """The counts of each line's text, [texts, COUNTS]."""
    done = subprocess.run(
        program(), input="".join(f"{line}\n" for line in lines), capture_output=True, encoding="utf-8", check=False
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    if done.returncode or len(rows) != len(lines) or any(len(row) != COUNTS for row in rows):
        said = (done.stderr.strip().splitlines() or [f"{len(rows)} lines of {len(lines)}"])[-1]
        raise UserError(f"METEOR's program failed: {said}")
    counts = np.array(rows, np.float64)
    whole = (counts[:, 20:] == np.stack([np.ones(len(counts)), *counts[:, :2].T], axis=1)).all(axis=1)
    counts[whole, 20] = 0  # one chunk that is all of both is no fragment: so the program adds up, too
    return counts


def _score(counts: np.ndarray) -> float:
    """The score of counts that are summed over texts. A function word counts a quarter, another three."""
    text, reference, text_functions, reference_functions = counts[:4]
    stages = counts[4:20].reshape(4, 4)  # [exact … paraphrased, text's and reference's words, then function words]
    chunks, matched_text, matched_reference = counts[20:]
    precision = WEIGHTS @ (DELTA * stages[:, 0] + (1 - DELTA) * stages[:, 2])
    recall = WEIGHTS @ (DELTA * stages[:, 1] + (1 - DELTA) * stages[:, 3])
    if not precision or not recall:
        return 0.0
    precision /= DELTA * (text - text_functions) + (1 - DELTA) * text_functions
    recall /= DELTA * (reference - reference_functions) + (1 - DELTA) * reference_functions
    fragmentation = chunks / ((matched_text + matched_reference) / 2)
    mean = 1 / (ALPHA / recall + (1 - ALPHA) / precision)
    return float(mean * (1 - GAMMA * fragmentation**BETA))
