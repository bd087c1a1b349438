"""Setting examples apart where the publisher has not."""

import pytest

from common.errors import UserError
from datasets.example import Example, Segment
from datasets.holdout import select_split as part
from datasets.holdout import shares_of


def example(name: str) -> Example:
    return Example((Segment(name, scored=True),), "file:1")


def names(examples) -> list[str]:
    return [item.segments[0].text for item in examples]


def test_setting_apart_covers_everything_once_and_no_key_stands_on_both_sides(rng):
    keys = [f"key {number}" for number in rng.integers(0, 200, 500)]
    items, shares = [example(str(number)) for number in range(500)], {"validation": 0.1, "test": 0.05}
    parts = {split: names(part(items, keys, split, shares)) for split in ("train", "validation", "test")}
    assert sorted(sum(parts.values(), []), key=int) == [str(number) for number in range(500)]
    held = {split: {keys[int(name)] for name in found} for split, found in parts.items()}
    assert sum(map(len, held.values())) == len(set(keys))
    assert len(held["validation"]) == round(0.1 * len(set(keys)))
    assert parts["train"] == sorted(parts["train"], key=int), "in the file's order"


def test_what_is_set_apart_does_not_depend_on_the_order_of_the_file(rng):
    keys = [f"clé {number}" for number in range(300)]
    shuffled = [keys[index] for index in rng.permutation(300)]
    one, other = (part([example(key) for key in order], order, "test", {"test": 0.1}) for order in (keys, shuffled))
    assert sorted(names(one)) == sorted(names(other))


def test_the_same_keys_are_set_apart_on_every_machine_and_each_share_gets_one_at_least():
    # zlib.crc32: "1" 0x83DCEFB7, "2" 0x1AD5BE0D, "3" 0x6DD28E9B, "4" 0xF3B61B38; so the order is 2, 3, 1, 4
    keys = ["1", "2", "3", "4"]
    shares = {"validation": 0.01, "test": 0.01}
    found = {split: names(part([example(key) for key in keys], keys, split, shares)) for split in (*shares, "train")}
    assert found == {"validation": ["2"], "test": ["3"], "train": ["1", "4"]}


def test_a_single_file_is_parted_in_three_and_whatever_else_as_its_task_says(tmp_path):
    shares = {"validation": 0.03}
    assert shares_of(None, shares) == shares_of(tmp_path, shares) == shares_of(tmp_path / "none", shares) == shares
    (tmp_path / "x.tsv").touch()
    assert shares_of(tmp_path / "x.tsv", shares) == {"validation": 0.1, "test": 0.1}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_without_shares_the_examples_are_one_split_already(split):
    assert names(part([example("b"), example("a")], ["b", "b"], split, {})) == ["b", "a"]


def test_too_few_keys_to_set_some_apart_are_the_users_error():
    with pytest.raises(UserError, match="file:1: too little data to set some of it apart"):
        part([example("a")] * 9, ["the same"] * 9, "train", {"validation": 0.1})
    with pytest.raises(UserError, match="file:1: nothing is left to train on: lower validation_share"):
        part([example("a")] * 9, list("abcdefghi"), "train", {"validation": 0.99})
