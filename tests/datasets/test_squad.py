"""SQuAD: the publisher's JSON and the hub's Parquet, answers and their places, and every broken file."""

import gzip
import json
import random
from pathlib import Path

import pytest
import tiny
from documents import MISSING, changed, paths
from places import ROOT, SHARED

from common.errors import UserError
from datasets.encode import IGNORED, report
from datasets.tasks.squad import HUB_FILES, SAMPLE_DIR, TASK, load, prompt
from datasets.truncation import fitted
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

NANO = ROOT / "checkpoints" / "gpt2-nano"
CORPUS = SHARED / "squad"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"SQuAD itself is not in {CORPUS}")

CONTEXT = "The cat sat on the mat. The dog sat on the cat."


def qa(text="the mat", start=15, **fields) -> dict:
    answer = {"answers": [{"text": text, "answer_start": start}]}
    return {"id": "q1", "question": "Where did the cat sit?"} | answer | fields


def article(*qas: dict, title="Cats", context=CONTEXT) -> dict:
    return {"title": title, "paragraphs": [{"context": context, "qas": list(qas)}]}


def write(folder: Path, *articles: dict, name="dev-v1.1.json") -> Path:
    text = json.dumps({"version": "1.1", "data": articles})
    file = folder / name
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return file


def write_parquet(file: Path, rows: list[dict]) -> Path:
    from pyarrow import Table, parquet

    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(Table.from_pylist(rows), file)
    return file


def only(folder: Path, *articles: dict):
    """The only example of a dev set of these articles."""
    write(folder, *articles)
    (example,) = load("test", folder)
    return example


def kept(example) -> tuple[str, int]:
    """What the context must keep, and where that stands in the context."""
    segment = example.segments[1]
    return segment.text[slice(*segment.keep)], segment.keep[0] - 1


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A token a byte, the end token is 256."""
    folder = tmp_path_factory.mktemp("letters")
    tiny.save_tokenizer(folder)
    return load_tokenizer(folder)


def test_the_answer_and_the_end_token_are_scored_behind_context_and_question(tmp_path, letters):
    (item,) = fitted([only(tmp_path, article(qa("mat", 19)))], letters, 200).items
    given = f"Context: {CONTEXT}\nQuestion: Where did the cat sit?\nAnswer:"
    said = [ord(letter) - ord("!") for letter in "mat"]  # the byte alphabet begins with "!"
    space, end = letters(" ")["input_ids"], 256
    assert item.input_ids.tolist() == [*letters(given)["input_ids"], *space, *said, end]
    assert item.labels.tolist() == [IGNORED] * len(given) + [*space, *said, end]


def test_the_prompt_of_use_has_the_ids_of_the_training_prompt(tmp_path, letters):
    asked = qa(question=" Where? ")
    example = only(tmp_path, article(asked, context=f"\n {CONTEXT} \n"))
    used = prompt(f"  {CONTEXT}\n", "Where?")
    assert used == type(used)(example.given.segments)
    (ids,) = TASK.encode_prompt(used, letters, 300)
    item = fitted([example], letters, 300)[0]
    assert ids.tolist() == item.input_ids[: len(ids)].tolist()
    assert item.labels[len(ids) - 1] == IGNORED != item.labels[len(ids)]


@pytest.mark.parametrize(("place", "counts"), [(".", [236, 4]), ("train-v1.1.json", [192, 24, 24])])
def test_splits_are_whole_articles_of_a_file_whatever_their_order(tmp_path, place, counts):
    """Of 120 articles validation gets 2 %, which are 2; of a single file, test and it get 10 % each, which are 12."""
    articles, found = [article(qa(id=f"{n}a"), qa(id=f"{n}b"), title=f"Title {n}") for n in range(120)], []
    for order in (articles, articles[::-1]):
        write(tmp_path, *order, name="train-v1.1.json")
        splits = ["train", "validation", "test"][: len(counts)]
        found.append([sorted(example.name for example in load(split, tmp_path / place)) for split in splits])
    assert found[0] == found[1] and list(map(len, found[0])) == counts
    assert sorted(sum(found[0], [])) == sorted(f"{n}{letter}" for n in range(120) for letter in "ab")
    assert sum(len({name[:-1] for name in names}) for names in found[0]) == 120, "no article is in two splits"


def test_the_dev_set_is_the_test_split_and_no_other_split_reads_it(tmp_path):
    write(tmp_path, article(qa()))
    assert len(load("test", tmp_path)) == 1
    for split in ("train", "validation"):
        with pytest.raises(UserError, match=r"has none of train-v1\.1\.json, .*: give SQuAD's train file"):
            load(split, tmp_path)


def test_an_id_may_be_a_number(tmp_path):
    assert only(tmp_path, article(qa(id=17))).name == "17"


def test_a_question_without_an_answer_is_answered_by_the_end_token_alone(tmp_path, letters):
    impossible = qa(id="q2", is_impossible=True, answers=[], plausible_answers=[{"text": "The cat", "answer_start": 0}])
    write(tmp_path, article(qa(is_impossible=False), impossible), name="dev-v2.0.json")
    dataset = load("test", tmp_path)
    assert [example.references for example in dataset] == [("the mat",), ()]
    encoded = fitted(dataset.examples, letters, 300)
    assert [label for label in encoded[1].labels.tolist() if label != IGNORED] == [letters.eos_token_id]
    assert "  questions without an answer: 1" in report(dataset, encoded).split("\n")


def test_every_reference_is_kept_and_the_first_that_is_found_is_said(tmp_path):
    answers = [{"text": text, "answer_start": 15} for text in ("a mat", " the mat ", "mat", "mat", "")]
    example = only(tmp_path, article(qa(answers=answers)))
    assert example.references == ("a mat", "the mat", "mat", "mat")
    assert example.segments[-1].text == " the mat"


@pytest.mark.parametrize(
    ("text", "start", "place"),
    [("sat", 8, 8), ("sat", 32, 32), ("sat", 0, 8), ("sat", 30, 32), ("sat", 10**30, 32), ("\u00a0 sat\n", 30, 32)],
)
@pytest.mark.parametrize("before", ["", "\n \u00a0", "🙂 "])
def test_an_answer_is_found_at_its_place_or_nearest_to_it(tmp_path, before, text, start, place):
    example = only(tmp_path, article(qa(text, start + len(before)), context=before + CONTEXT))
    assert kept(example) == ("sat", place + len(before.lstrip()))
    assert (example.segments[-1].text, example.references) == (" sat", ("sat",))


@pytest.mark.parametrize(("start", "place"), [(8, 4), (4, 0), (0, 0), (12, 8)])
def test_places_count_the_space_before_a_context_although_it_is_not_read(tmp_path, start, place):
    example = only(tmp_path, article(qa("sat", start), context="\n \u00a0 sat sat sat"))
    assert kept(example) == ("sat", place)


@pytest.mark.parametrize("text", ["a bird", "THE MAT", "  "])
def test_an_answer_that_is_not_in_its_context_is_dropped_with_its_place(tmp_path, text):
    file = write(tmp_path, article(qa(id="good")), article(qa(text, id="bad"), title="Birds"))
    dataset = load("test", tmp_path)
    assert [example.name for example in dataset] == ["good"]
    where = f"{file}: article 2, paragraph 1, question 1 (bad)"
    assert dataset.dropped == [f"{where}: the answer {text.strip()!r} is not in its context"]
    write(tmp_path, article(qa(text)))
    with pytest.raises(UserError, match="has no question: .* the first: .*is not in its context"):
        load("test", tmp_path)


def test_json_gzip_and_parquet_hold_the_same_questions(tmp_path, monkeypatch):
    two = [{"text": "the mat", "answer_start": 15}, {"text": "mat", "answer_start": 19}]
    qas = [qa(answers=two), qa("İstanbul'da 🙂", 3, id="q2", question="où?")]
    articles = [article(qas[0]), article(qas[1], title="Ö", context="in İstanbul'da 🙂!")]
    rows = [
        {"id": question["id"], "title": each["title"], "context": each["paragraphs"][0]["context"]}
        | {"question": question["question"]}
        | {"answers": {key: [answer[key] for answer in question["answers"]] for key in ("text", "answer_start")}}
        for each, question in zip(articles, qas, strict=True)
    ]
    (tmp_path / "packed").mkdir()
    write(tmp_path, *articles), write(tmp_path / "packed", *articles, name="dev-v1.1.json.gz")
    parquet = write_parquet(tmp_path / "hub" / HUB_FILES["dev"], rows)
    asked = []
    monkeypatch.setattr("datasets.tasks.squad.fetch", lambda *what, **how: asked.append((what, how)) or parquet)
    expected = [(example.segments, example.name, example.references) for example in load("test", tmp_path)]
    for folder in (tmp_path / "packed", tmp_path / "hub", None):
        assert [(each.segments, each.name, each.references) for each in load("test", folder)] == expected
    assert load("test", None)[1].source == f"{parquet}:row 2 (q2)"
    assert asked[0] == (("rajpurkar/squad", HUB_FILES["dev"]), {"repo_type": "dataset"})


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["the mat", "mat"], "answer_start": [15]}, "row 1: 2 answers but 1 places"),
        ({"text": None, "answer_start": [15]}, "row 1.*the list 'text' is missing"),
        ({"text": ["the mat"], "answer_start": [None]}, "row 1 .*needs 'answer_start'"),
        ("the mat", "row 1.*the list 'text' is missing"),
    ],
)
def test_a_parquet_row_with_broken_answers_is_named(tmp_path, answers, message):
    row = {"id": "q", "title": "t", "context": CONTEXT, "question": "Where?", "answers": answers}
    with pytest.raises(UserError, match=message):
        load("test", write_parquet(tmp_path / "x.parquet", [row]))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('{"data": [\n{"title": "t",\n"paragraphs": [}]}', r"dev-v1\.1\.json:3: this is not JSON \(.*column 16\)"),
        ("", r":1: this is not JSON"),
        ("[" * 100_000, "nested|recursion"),
        ('{"data": [' + "9" * 5000 + "]}", "not SQuAD's JSON"),
        ("[]", "the list 'data' is missing"),
        ('{"data": []}', "has no question: give SQuAD's dev file"),
        ('{"data": [{"title": "t", "paragraphs": []}]}', "has no question"),
    ],
)
def test_a_broken_document_is_refused_with_its_place(tmp_path, broken, message):
    (tmp_path / "dev-v1.1.json").write_text(broken)
    with pytest.raises(UserError, match=message):
        load("test", tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["paragraphs"], MISSING, r"json: article 1: the list 'paragraphs' is missing"),
        (["title"], 5, r"article 1: the field 'title' must be text, not 5"),
        (["paragraphs", 0, "qas"], {}, r"article 1, paragraph 1: the list 'qas' is missing"),
        (["paragraphs", 0, "context"], MISSING, r"article 1, paragraph 1: the field 'context' is missing"),
        (["paragraphs", 0, "context"], " ", r"article 1, paragraph 1: the field 'context' is empty"),
        (
            ["paragraphs", 0, "context"],
            "a\ud83d",
            r"article 1, paragraph 1: the field 'context' holds half of .*'\\ud83d'",
        ),
        (["paragraphs", 0, "qas", 0], [], r"paragraph 1, question 1: the field 'id' is missing"),
        (["paragraphs", 0, "qas", 0, "id"], "\udc00", r"question 1: the field 'id' holds half of a character"),
        (["paragraphs", 0, "qas", 0, "question"], None, r"\(q1\): the field 'question' must be text, not None"),
        (["paragraphs", 0, "qas", 0, "answers"], MISSING, r"\(q1\): the list 'answers' is missing"),
        (["paragraphs", 0, "qas", 0, "is_impossible"], "no", r"'is_impossible' must be true or false"),
        (["paragraphs", 0, "qas", 0, "answers", 0], "the mat", r"\(q1\): the field 'text' is missing"),
        (["paragraphs", 0, "qas", 0, "answers", 0, "answer_start"], True, r"\(q1\): an answer needs 'answer_start'"),
        (["paragraphs", 0, "qas", 0, "answers", 0, "answer_start"], -1, r"\(q1\): an answer needs 'answer_start'"),
    ],
)
def test_a_wrong_field_is_refused_with_its_place(tmp_path, path, value, message):
    write(tmp_path, changed(article(qa()), path, value))
    with pytest.raises(UserError, match=message):
        load("test", tmp_path)


def test_whatever_is_changed_in_a_document_is_read_or_is_the_users_error(tmp_path, seed, letters):
    draw, file = random.Random(seed), tmp_path / "train-v1.1.json"
    junk = [MISSING, None, True, 0, -7, 1.5, 10**40, "", "x", "\ud800", "é\udfff", [], {}, [[]], [{}], {"text": 1}]
    nested = json.loads("[" * 500 + "]" * 500)
    valid = {"version": "1.1", "data": [article(qa(id=f"{n}"), qa(id=f"{n}b"), title=f"{n}") for n in range(3)]}
    for _ in range(400):
        document = changed(valid, draw.choice(paths(valid)), draw.choice([*junk, nested]))
        text = json.dumps(document)
        if draw.random() < 0.2:
            place = draw.randrange(len(text))
            text = text[:place] + draw.choice(["", "\\", '"', "}", "\x00", "\\ud8"]) + text[place + draw.randrange(9) :]
        file.write_text(text)
        for split in ("train", "validation"):
            try:
                dataset = load(split, tmp_path)
            except UserError as error:
                assert str(file) in str(error)
            else:
                assert len(fitted(dataset.examples, letters, 300)) == len(dataset)


@pytest.mark.parametrize(("split", "questions", "least"), [("train", 88, 1), ("validation", 8, 1), ("test", 32, 2)])
def test_the_embedded_sample_is_whole(split, questions, least):
    dataset = load(split, SAMPLE_DIR)
    assert (len(dataset), dataset.dropped, dataset.notes) == (questions, [], [])
    assert min(len(example.references) for example in dataset) == least
    assert all(kept(example)[0] == example.references[0] for example in dataset)


@needs_corpus
def test_every_question_of_the_official_files_is_read_and_can_be_encoded(seed):
    splits = {split: load(split, CORPUS) for split in ("train", "validation", "test")}
    assert len(splits["train"]) + len(splits["validation"]) == 87_599
    assert len(splits["test"]) == 10_570
    assert not any(dataset.dropped or dataset.notes for dataset in splits.values())
    sample = random.Random(seed).sample([*splits["train"], *splits["test"]], 2_000)
    encoded = fitted(sample, load_tokenizer(NANO), 384)
    assert (len(encoded), max(encoded.lengths)) == (2_000, 384)
    assert 0 < encoded.shortened < 200, "about one in 24"
