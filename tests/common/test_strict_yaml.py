"""Recipes: what PyYAML reads and what it reads wrongly, beside PyYAML itself."""

import time

import pytest
import yaml

from common import strict_yaml
from common.errors import UserError
from common.files import read_yaml
from training.arguments import read_recipe

# what is there twice, in which lines
TWICE = {
    "seed: 1\ntask: squad\nseed: 2\n": ("seed", 3, 1),
    "seed: 1\nseed: 1\n": ("seed", 2, 1),
    "a:\n  b: 1\n  c: {d: 1, e: 2, d: 3}\n": ("d", 3, 3),
    "a:\n- x: 1\n  y: 2\n  x: 3\n": ("x", 4, 2),
    '"seed": 1\nseed: 2\n': ("seed", 2, 1),
    "{seed: 1,\n seed: 2}": ("seed", 2, 1),
    "# comment\n\n1: a\n1: b\n": ("1", 4, 3),
    "base: &base {rate: 1}\nother:\n  <<: *base\n  rate: 2\n  rate: 3\n": ("rate", 5, 4),
    "a: &a {x: 1}\nb: &b {y: 1}\nc:\n  <<: *a\n  <<: *b\n": ("<<", 5, 4),
}


@pytest.mark.parametrize("text", TWICE)
@pytest.mark.parametrize("read", [read_yaml, read_recipe])
def test_a_key_that_is_there_twice_is_named_with_its_lines(tmp_path, text, read):
    key, line, first = TWICE[text]
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    expected = f"^{path} cannot be read as YAML: line {line}: '{key}' is there twice, first in line {first}$"
    with pytest.raises(UserError, match=expected):
        read(path)


SOUND = [
    "task: squad\nlora_targets: [c_attn, c_proj]\nlearning_rate: 5e-4\nseed: 3\n",
    "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: [*b, *a], z: 4}\nd: {<<: *b}\n",  # merged keys are overridden
    "one: {x: 1}\nother: {x: 2}\n",
    "a: &a [x, y]\nb: *a\nc: [*a, *a]\n",
    "null: 1\n'null': 2\n",
    "? [a, b]\n: 3\n- no",
    "",
]


@pytest.mark.parametrize("text", SOUND)
def test_all_else_is_read_as_pyyaml_reads_it(text):
    try:
        expected = yaml.safe_load(text)
    except yaml.YAMLError:
        with pytest.raises(yaml.YAMLError):
            strict_yaml.load(text)
    else:
        assert strict_yaml.load(text) == expected


def doubling(of: str, levels: int = 40) -> str:
    return "a: &a0 {k: [x]}\n" + "".join(f"a{n}: &a{n} {of}\n".replace("#", f"*a{n - 1}") for n in range(1, levels))


BOMBS = {
    "lists of lists": doubling("[#, #]"),
    "mappings of mappings": doubling("{a: #, b: #}"),
    "merges of merges": doubling("{<<: [#, #], k: #}"),
    "a wide merge": "a: &a {" + ", ".join(f"k{n}: 1" for n in range(5000)) + "}\nb: {<<: [" + "*a, " * 9000 + "]}\n",
    "itself": "a: &a [*a]\n",
    "itself by a merge": "a: &a {<<: *a}\n",
    "many levels": "".join(f"a{n}: &a{n} [*a{n - 1}]\n" if n else "a0: &a0 [x]\n" for n in range(9000)),
}


@pytest.mark.parametrize("what", BOMBS)
def test_references_do_not_explode(tmp_path, what):
    path = tmp_path / "recipe.yaml"
    path.write_text(BOMBS[what])
    started = time.perf_counter()
    with pytest.raises(UserError, match=f"^{path} ") as caught:
        read_yaml(path)
    assert time.perf_counter() - started < 20 and len(str(caught.value)) < 300
