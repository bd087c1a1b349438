"""Words beside those of Stanford's PTBTokenizer 3.4.1, as COCO's caption scripts call it.

What is expected here was printed by `java -cp stanford-corenlp-3.4.1.jar edu.stanford.nlp.process.PTBTokenizer
-preserveLines -lowerCase`, the jar from pycocoevalcap 1.2, and lost what those scripts leave out.
"""

import shutil
import subprocess
from importlib import metadata

import pytest
from descriptions import drawn

from evaluation.penn_treebank import PUNCTUATION, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Vaults pub near Café Adriatic has a 5 star rating.  Prices start at £30.",
         "the vaults pub near café adriatic has a 5 star rating prices start at # 30"),
        ('The Vaults (a pub) isn\'t cheap: it\'s £20-25, and "good" food & drinks!',
         "the vaults -lrb- a pub -rrb- is n't cheap it 's # 20-25 and good food & drinks"),
        ("Don't miss it; we've been there. They're kid's place, the kids' menu's 5/5 -- great - really.",
         "do n't miss it we 've been there they 're kid 's place the kids menu 's 5/5 great really"),
        ("It costs $10.50, €5 or 10% off at 10:30pm. Cannot go? Gonna go.",
         "it costs $ 10.50 $ 5 or 10 % off at 10:30 pm can not go gon na go"),
        ("St. John's, the U.S.A. and Mr. Smith etc. and so on. e.g. this. No. 5",
         "st. john 's the u.s.a. and mr. smith etc. and so on e.g. this no. 5"),
        ("A 5-star family-friendly non-child-friendly place with/without kids.",
         "a 5-star family-friendly non-child-friendly place with/without kids"),
        ("£30.Less than £20 .Really? Yes!! What?! ok....", "# 30 less than # 20 really yes !! what ?! ok"),
        ("'Tis 90's o'clock d'you `tick` it's' 'a' ‘curly’ “double” it’s – dash — em",
         "'t is 90 's o'clock d'you tick it 's a curly double it 's dash em"),
        ("it is near.The place is a pub., in the center., cheap,low-priced and French,family-friendly",
         "it is near.the place is a pub. in the center. cheap,low-priced and french,family-friendly"),
        ("20£-25 20 -25 £20--25 1.50p 3.5-star ,5 café.6", "20 # -25 20 -25 # 20 25 1.50 p 3.5-star ,5 café .6"),
        ("[x] {y} a=b *star* £ 20 +5 5+ #1", "-lsb- x -rsb- -lcb- y -rcb- a = b * star * # 20 +5 5 + # 1"),
        ("rock 'n' roll, ma'am, 'til the '90s", "rock 'n' roll ma'am 'til the '90s"),
        ("", ""),
        (" . , - ", ""),
    ],
)  # fmt: skip
def test_words_are_stanfords(text, expected):
    assert words(text) == expected.split()


def test_words_are_stanfords_on_random_sentences_where_the_program_is_here(tmp_path):
    jar = _jar()
    if shutil.which("java") is None or jar is None:
        pytest.skip("Java or pycocoevalcap's stanford-corenlp-3.4.1.jar is not here")
    texts, references = drawn(4, 300)
    lines = [line for line in [*texts, *(text for several in references for text in several)] if line]
    (tmp_path / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    command = ["java", "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    done = subprocess.run([*command, tmp_path / "lines.txt"], capture_output=True, encoding="utf-8", check=True)
    found = done.stdout.split("\n")[: len(lines)]
    for line, tokens in zip(lines, found, strict=True):
        assert words(line) == [word for word in tokens.split() if word not in PUNCTUATION], line


def _jar() -> str | None:
    try:
        files = metadata.files("pycocoevalcap") or []
    except metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name == "stanford-corenlp-3.4.1.jar"), None)
