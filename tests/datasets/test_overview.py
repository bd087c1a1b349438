"""What a report says of data: lengths, duplicates, tokens, and an example with its scored part marked."""

import pytest
from commands import assert_one_line_error, command
from places import ROOT
from tiny import byte_tokenizer

from datasets import overview, tasks
from datasets.encode import IGNORED
from datasets.example import Dataset, Example, Segment
from datasets.truncation import fitted
from gpt2_jittor.checkpoint.tokenizer import add_tokens


def example(given: str, said: str, source: str) -> Example:
    return Example((Segment(given, scored=False, end=False), Segment(said, scored=True)), source)


def splits(tokenizer, **texts) -> dict:
    """Data sets of (given, said) pairs by split, with what they are encoded to."""
    found = {}
    for split, pairs in texts.items():
        examples = [example(*pair, f"{split}:{line}") for line, pair in enumerate(pairs, 1)]
        found[split] = Dataset("complete", split, examples), fitted(examples, tokenizer, 60)
    return found


def test_the_scored_part_of_an_item_is_marked_and_the_rest_is_as_it_is_read(tokenizer, rng):
    given, said = ("".join(rng.choice(list("abc d"), 9)) for _ in range(2))
    (item,) = fitted([example(given, said, "a:1")], tokenizer, 60).items
    text = overview.marked(item, tokenizer)
    assert text == f"{given}«{said}<|endoftext|>»"
    scored = text[text.index("«") + 1 : text.index("»")]
    assert scored == tokenizer.decode([each for each in item.labels.tolist() if each != IGNORED])


def test_of_a_class_no_token_is_marked(tokenizer):
    texts = Example((Segment("tea", scored=False, end=False),), "a:1", label=1)
    encoded = fitted([texts], tokenizer, 60)
    assert overview.marked(encoded[0], tokenizer) == "tea"
    told = overview.short({"train": (Dataset("classify", "train", [texts]), encoded)}, tokenizer)
    assert told.splitlines()[-2:] == ["a:1 as the model reads it, its class is scored:", "  | tea"]


def test_what_was_shortened_or_dropped_is_named_with_its_place(tokenizer):
    long = Example((Segment("a" * 90, scored=False, end=False, cut=True), Segment("b", scored=True)), "a:1")
    whole = example("c" * 90, "d", "a:2")
    encoded = fitted([long, whole], tokenizer, 60)
    told = overview.full({"train": (Dataset("complete", "train", [long, whole]), encoded)}, tokenizer).splitlines()
    assert told[1:4] == [
        "  1 shortened to fit (what may be cut of them is cut)",
        "  dropped a:2: 92 tokens are the least of it, 60 fit",
        "  shortened: a:1",
    ]


def test_duplicates_are_told_within_a_split_and_across(tokenizer):
    data = splits(tokenizer, train=[("a", "b"), ("c", "d"), ("a", "b")], validation=[("c", "d"), ("a", "x")])
    lines = overview.short(data, tokenizer).splitlines()
    assert lines[1:3] == [
        "duplicates within train: 1 (train:3 = train:1)",
        "duplicates of validation in the splits above: 1 (validation:1 = train:2)",
    ]
    assert "duplicates: none" in overview.short(splits(tokenizer, train=[("a", "b"), ("a", "c")]), tokenizer)


def test_lengths_are_counted_into_bins_from_the_shortest_to_the_longest(tokenizer, rng):
    lengths = rng.integers(3, 50, 40).tolist()
    data = splits(tokenizer, train=[("a", "b" * (length - 2)) for length in lengths])
    told = overview.full(data, tokenizer)
    bins = [line.split() for line in told.splitlines() if " – " in line]
    assert sum(int(counted[3]) for counted in bins) == 40 and int(bins[0][0]) == min(lengths)
    for begin, _, end, count, *_ in bins:
        assert int(count) == sum(int(begin) <= length <= int(end) for length in lengths)
    assert f"tokens: {min(lengths)} the shortest, " in told and f"{max(lengths)} the longest" in told


def test_tokens_that_training_does_not_have_or_no_model_has_seen_are_told(tmp_path):
    tokenizer = byte_tokenizer(tmp_path)
    added = add_tokens(tokenizer, ["<USER>"])
    told = overview.full(splits(tokenizer, train=[("a", "b")], validation=[("a", "c"), ("d", "b")]), tokenizer, added)
    # of validation's six tokens, two end tokens included
    assert "tokens of validation that train does not have: 2, 33.3% of its text ('c', 'd')" in told
    assert "tokens that no model has seen, and how often train has them: <USER> 0" in told


def test_the_command_reports_on_a_file_and_errs_in_one_line(tmp_path):
    path = ROOT / "datasets" / "samples" / "own" / "chats.jsonl"
    result = command("-m", "datasets", "report", "--task", "chat", "--data", path)
    assert result.returncode == 0, result.stderr
    for words in ("chat train: 72 examples", "chat validation: 8 examples", "is read as messages", "«So soon?"):
        assert words in result.stdout
    broken = tmp_path / "a.csv"
    broken.write_text("text,label\na,b\nc\n", encoding="utf-8")
    options = ("-m", "datasets", "report", "--task", "classify", "--data", broken)
    assert_one_line_error(command(*options), f"{broken}:3: 1 fields where the header names 2")


@pytest.mark.parametrize("task", ["dailydialog", "squad", "emotion"])
def test_a_publishers_data_are_reported_on_too(task):
    result = command("-m", "datasets", "report", "--task", task, "--data-dir", "sample")
    assert result.returncode == 0, result.stderr
    assert all(f"{task} {split}: " in result.stdout for split in ("train", "validation", "test"))


def test_a_file_of_a_publishers_records_is_given_as_ones_own(tmp_path):
    path = ROOT / "datasets" / "samples" / "own" / "feelings.csv"
    result = command("-m", "datasets", "report", "--task", "emotion", "--data", path)
    assert result.returncode == 0, result.stderr
    assert all(f"emotion {split}: " in result.stdout for split in ("train", "validation", "test"))


@pytest.mark.parametrize(
    ("header", "columns", "task"),
    [
        ("text,label", [], "classify"),
        ("Text,Label", [], "classify"),
        ("text", [], "complete"),
        ("prompt,completion", [], "complete"),
        ("question,answer", ["prompt=question", "completion=answer"], "complete"),
        ("instruction,output", [], "instruct"),
        ("instruction,context,response", [], "instruct"),
        ("messages,text", [], "chat"),
        ("conversations", [], "chat"),
    ],
)
def test_what_data_are_is_seen_from_their_columns(tmp_path, header, columns, task):
    file = tmp_path / "data.csv"
    file.write_text(f"{header}\n" + ",".join("x" for _ in header.split(",")) + "\n")
    assert tasks.guessed(None, str(file), columns) == task
    file.rename(tmp_path / "train.csv")
    assert tasks.guessed(str(tmp_path), None, columns) == task


def test_columns_that_say_nothing_are_asked_about(tmp_path):
    (tmp_path / "a.csv").write_text("one,two\n1,2\n")
    for arguments, words in (
        (["--data", tmp_path / "a.csv"], ["a.csv", "one, two", "--task", "--columns"]),
        ([], ["nothing to report on", "--data", "--data-dir", "--task"]),
    ):
        assert_one_line_error(command("-m", "datasets", "report", *arguments), *words)
