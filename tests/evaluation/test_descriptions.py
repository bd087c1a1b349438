"""The E2E challenge's measures: its script's own figures, which `e2e_metrics.json` says how to obtain, and by hand."""

import csv
import io
import json
import math
import stat
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
from descriptions import disturbed, drawn
from places import SHARED

from common.errors import UserError
from datasets.read import read_zip_member
from evaluation import descriptions, meteor
from evaluation.captions import cider, rouge_l
from evaluation.descriptions import statistics_of
from evaluation.metrics import bootstrap
from evaluation.mteval import bleu_and_nist_of

RECORDED = json.loads((Path(__file__).parent / "e2e_metrics.json").read_text(encoding="utf-8"))
OFFICIAL = {"bleu": ("BLEU", 100), "nist": ("NIST", 1), "rouge_l": ("ROUGE_L", 100), "cider": ("CIDEr", 1)}
OFFICIAL |= {"meteor": ("METEOR", 100)}
SAME = 1e-12  # relative: sums of some thousand float64, in another order
ARCHIVE = SHARED / "e2e" / "e2e-dataset.zip"
needs_corpus = pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"E2E itself is not in {ARCHIVE.parent}")
# example-inputs/baseline-output.txt of the script's repository: TGen's, of the first ten meanings of E2E's devset
BASELINE = """Alimentum is located in the city centre. It is not family-friendly.
Alimentum is a non family-friendly restaurant near Burger King in the city centre.
Alimentum is a family-friendly restaurant in the city centre.
Alimentum is a family-friendly restaurant in the city centre near Burger King.
Alimentum is located in the city centre. It is not family-friendly.
Alimentum is near Burger King in the riverside area. It is not family-friendly.
In the riverside area there is a family friendly place called Alimentum.
Alimentum is a family friendly restaurant in the riverside area near Burger King.
Aromi is a kid friendly coffee shop serving chinese food in the riverside area with a customer rating of 1 out of 5.
Aromi is a kid friendly coffee shop serving chinese food in the riverside area with a customer rating of 3 out of 5.
"""


@pytest.fixture
def without_meteor(monkeypatch):
    monkeypatch.setattr(meteor.shutil, "which", lambda name: None)


def of_corpus(file: str) -> list[list[str]]:
    """The references of each meaning, in the file's order."""
    meanings: dict[str, list[str]] = {}
    for meaning, text in list(csv.reader(io.StringIO(read_zip_member(ARCHIVE, f"e2e-dataset/{file}.csv"))))[1:]:
        meanings.setdefault(meaning, []).append(text)
    return list(meanings.values())


def assert_official(name: str, texts, references) -> None:
    found, missing = statistics_of(texts, references)
    assert ("meteor" in found) == (missing == "")
    for measure, statistic in found.items():
        key, scale = OFFICIAL[measure]
        value = statistic(np.arange(len(texts)))
        assert value == pytest.approx(scale * RECORDED["figures"][name][key], rel=SAME), measure


@pytest.mark.parametrize("seed", [1, 2])
def test_500_random_texts_have_the_scripts_figures(seed):
    assert_official(f"drawn {seed}", *drawn(seed, 500))


@needs_corpus
def test_the_scripts_own_example_has_its_figures():
    assert_official("example", BASELINE.splitlines(), of_corpus("devset")[:10])


@needs_corpus
def test_500_disturbed_references_of_the_challenge_have_the_scripts_figures(without_meteor):
    random, references = Random(3), of_corpus("testset_w_refs")[:500]
    texts = [disturbed(random, several) for several in references]
    assert_official("e2e", texts, references)
    assert_official("e2e, of the meaning before", [texts[-1], *texts[:-1]], references)


def test_a_resample_is_the_measure_of_its_texts_with_the_weights_of_all(without_meteor, rng):
    texts, references = drawn(int(rng.integers(1000)), 12)
    found, _ = statistics_of(texts, references)
    indexes = rng.integers(12, size=12)
    some, right = [texts[i] for i in indexes], [references[i] for i in indexes]
    same, _ = statistics_of(some, right)
    for measure in ("bleu", "rouge_l"):  # these have no weights
        assert found[measure](indexes) == pytest.approx(same[measure](np.arange(12)), rel=SAME)
    doubled = np.repeat(np.arange(12), 2)
    for measure, statistic in found.items():
        assert statistic(doubled) == pytest.approx(statistic(np.arange(12)), rel=SAME), measure
        low, high = bootstrap(12, statistic, resamples=50)
        assert low < high, measure


def test_a_text_of_several_lines_is_measured_as_it_is_written(without_meteor):
    references = [["a well-known pub by the river"]]
    found = [
        statistics_of([text], references)[0]
        for text in ("a well-\nknown  pub by the river ", "a well- known pub by the river")
    ]
    for measure, statistic in found[0].items():
        assert statistic(np.array([0])) == found[1][measure](np.array([0])), measure


def test_bleu_is_worked_by_hand():
    bleu = bleu_and_nist_of(["The cat sat on the mat"], [["the cat sat on a mat", "a dog"]])["bleu"]
    # one "the" of two; the cat, cat sat, sat on; the cat sat, cat sat on; the cat sat on
    expected = (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4)
    assert bleu(np.array([0])) == pytest.approx(100 * expected)
    bleu = bleu_and_nist_of(["a b c d"], [["a b c d e f"]])["bleu"]
    assert bleu(np.array([0])) == pytest.approx(100 * math.exp(1 - 6 / 4))


def test_nist_is_worked_by_hand():
    nist = bleu_and_nist_of(["a b"], [["a b a"]])["nist"]
    # three words, of which two are a, and one b behind an a; two thirds of the length halve it
    assert nist(np.array([0])) == pytest.approx(((math.log2(3 / 2) + math.log2(3 / 1)) / 2 + math.log2(2 / 1)) / 2)


def test_rouge_l_is_worked_by_hand():
    # a c d of four words and of three; b of four and of two
    precision, recall = 3 / 4, 3 / 3
    expected = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert rouge_l(list("abcd"), [list("acd"), list("xb")]) == pytest.approx(expected)
    assert rouge_l(list("ab"), [list("cd")]) == rouge_l([], [list("cd")]) == 0.0
    assert rouge_l(list("ab"), [list("xy"), list("ab")]) == pytest.approx(1.0)


def test_cider_is_worked_by_hand():
    # each n-gram is of one of two texts and so weighs log 2; a text's length is how many 2-grams it has
    penalty = math.exp(-((1 - 4) ** 2) / (2 * 6.0**2))
    expected = 10 * penalty * (2 / (math.sqrt(2) * math.sqrt(5)) + 1 / (1 * math.sqrt(4))) / 4
    found = cider([list("ab"), list("wxyz")], [[list("abcde")], [list("wxyz"), list("klmn")]])
    assert found == pytest.approx([expected, 10 / 2])


@pytest.mark.parametrize(
    ("texts", "references"), [([], []), (["a"], []), (["a"], [["a"], ["b"]]), (["a", "b"], [["a"], []])]
)
def test_each_text_needs_its_references(texts, references):
    with pytest.raises(ValueError, match="needs its references"):
        statistics_of(texts, references)


# METEOR: the program's counts, recorded, and what becomes of them


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Makes METEOR's program one that writes `output` and ends with `status`, and keeps what it reads in `read`."""

    def make(output: str, status: int = 0):
        (tmp_path / "output").write_text(output, encoding="utf-8")
        script = tmp_path / "java"
        script.write_text(
            f"#!{sys.executable}\nimport sys\nopen('{tmp_path}/read', 'w').write(sys.stdin.read())\n"
            f"sys.stdout.write(open('{tmp_path}/output').read())\nsys.exit({status} and 'no room for the heap')\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(meteor, "program", lambda: [str(script)])
        return tmp_path / "read"

    return make


def test_meteor_is_made_of_the_programs_counts(program):
    cases, counts = RECORDED["meteor"]["cases"], RECORDED["meteor"]["counts"]
    read = program("".join(f"{line}\n" for line in counts))
    words = [(text.split(), [reference.split() for reference in several]) for text, several in cases]
    score = meteor.meteor_of(*map(list, zip(*words, strict=True)))
    *each, together = map(float, RECORDED["meteor"]["scores"])
    assert [score(np.array([i])) for i in range(len(each))] == pytest.approx([100 * value for value in each], rel=SAME)
    assert score(np.arange(len(each))) == pytest.approx(100 * together, rel=SAME)
    assert read.read_text().splitlines() == [f"SCORE ||| {' ||| '.join(several)} ||| {text}" for text, several in cases]


@pytest.mark.parametrize(
    ("output", "status", "reason"),
    [("", 1, "no room for the heap"), ("1 2 3\n", 0, "1 lines of 1"), ("", 0, "0 lines of 1")],
)
def test_a_program_that_fails_leaves_meteor_out_and_says_why(program, output, status, reason):
    program(output, status)
    found, missing = statistics_of(["a b"], [["a b"]])
    assert set(found) == {"bleu", "nist", "rouge_l", "cider"}
    assert missing == f"meteor left out: METEOR's program failed: {reason}"


def test_what_meteor_needs_is_named(monkeypatch):
    monkeypatch.setattr(meteor.shutil, "which", lambda name: None)
    assert statistics_of(["a"], [["a"]])[1] == "meteor left out: METEOR needs Java, which is not there"
    monkeypatch.setattr(meteor.shutil, "which", lambda name: "/usr/bin/java")
    monkeypatch.setattr(meteor, "PACKAGE", "a-package-that-is-not-there")
    with pytest.raises(UserError, match="needs meteor-1.5.jar: pip install --no-deps a-package-that-is-not-there==1.2"):
        descriptions.meteor_of([["a"]], [[["a"]]])
