"""Figures of a measured model, worked by hand on a few examples, and which example each prediction belongs to."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sacrebleu
import tiny
from console import let_say
from references import example_logits, example_losses
from transformers import GPT2ForSequenceClassification as TorchClassifier

import evaluate
from common.errors import UserError
from datasets import tasks
from datasets.encode import IGNORED, Encoded, EncodedSet
from datasets.example import Dataset, Example, Segment
from evaluation import measure as module
from evaluation import meteor, report
from evaluation.descriptions import statistics_of
from evaluation.measure import loss_figures, measure, trivial
from evaluation.report import write_predictions
from generation import running
from generation.engine import Engine
from generation.options import GenerationOptions
from generation.scoring import Losses
from generation.text import Generated
from gpt2_jittor import GPT2ForSequenceClassification, GPT2LMHeadModel
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

CHAT, DOLLY, E2E, RTE, SQUAD, TEXT = map(tasks.find, ("dailydialog", "dolly", "e2e", "rte", "squad", "text"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"), seed=1, vocab_size=257)


@pytest.fixture(scope="module")
def talker(folder):
    return GPT2LMHeadModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def say(monkeypatch, tokenizer, answers: dict[str, str]) -> None:
    """Makes every model say the answer of the first key that stands in the prompt."""

    def reply(ids) -> Generated:
        said = next(v for k, v in answers.items() if k in tokenizer.decode(ids))
        return Generated(tokenizer.encode(f" {said}\n"), True, -1.0, 2)

    let_say(monkeypatch, reply)


def question(context: str, asked: str, *references: str) -> Example:
    said = Segment(f" {references[0]}" if references else "", scored=True)
    segments = (*SQUAD.prompt(context, asked).segments, said)
    return Example(segments, f"dev.json: {asked}", name=f"id of {asked}", references=references)


def measured(model, tokenizer, task, examples, length: int = 101, **options):
    """As evaluate.py does it: encoded and asked at the same length."""
    dataset = Dataset(task.name, "test", examples)
    data = task.encode(examples, tokenizer, length)
    engine = Engine(model, tokenizer, task, GenerationOptions(greedy=True, **options), length)
    return measure(engine, dataset, data, 2, generates=bool(options)), dataset, data


def assert_intervals_hold_their_values(figures) -> None:
    for name, figure in figures.items():
        assert figure.low <= figure.value <= figure.high, name


def test_loss_is_weighted_by_what_each_example_scores_and_perplexity_is_its_exponential():
    figures = loss_figures(Losses(np.array([3.0, 1.0, 20.0]), np.array([1, 2, 5])))
    assert figures["loss"].value == 24 / 8 and figures["perplexity"].value == pytest.approx(np.exp(3))
    assert (figures["loss"].low, figures["loss"].high) == (0.5, 4.0)  # three times the lowest, three times the highest
    assert figures["perplexity"].low == pytest.approx(np.exp(0.5))
    assert figures["perplexity"].high == pytest.approx(np.exp(4))


def test_a_loss_beyond_all_floats_still_has_a_perplexity():
    assert loss_figures(Losses(np.array([5000.0]), np.array([1])))["perplexity"].value > 1e300


def test_classes_are_measured_as_worked_by_hand(monkeypatch, tokenizer):
    predicted = np.array([0, 0, 1, 1])
    found = Losses(np.array([0.1, 0.2, 0.9, 0.4]), np.ones(4, np.int64), np.eye(2, dtype=np.float32)[predicted])
    monkeypatch.setattr(module, "losses", lambda *given: found)
    segments = RTE.prompt("tea", "sun").segments
    examples = [Example(segments, f"dev.tsv:{n}", label=label) for n, label in enumerate([0, 0, 0, 1], 2)]
    model = SimpleNamespace(config=SimpleNamespace(n_positions=101))
    result, *_ = measured(model, tokenizer, RTE, examples)
    values = {name: figure.value for name, figure in result.figures.items()}
    of_classes = [2 * 2 / (2 * 2 + 1), 2 * 1 / (2 * 1 + 1)]  # one of class 0 was taken for class 1
    assert values["accuracy"] == 75 and values["macro_f1"] == pytest.approx(100 * np.mean(of_classes))
    assert values["loss"] == pytest.approx(0.4) and values["perplexity"] == pytest.approx(np.exp(0.4))
    assert (result.gold, result.predictions) == ([0, 0, 0, 1], [0, 0, 1, 1])
    assert_intervals_hold_their_values(result.figures)


def labelled(rng, count: int) -> list[Example]:
    """Texts that may not be cut, every third of them too long for the model."""
    lengths = [150 if number % 3 == 1 else int(rng.integers(2, 60)) for number in range(count)]
    texts = ["".join(rng.choice(list("abcdefg "), length)) for length in lengths]
    return [
        Example((Segment(text, scored=False, end=False),), f"dev.tsv:{number}", label=number % 2)
        for number, text in enumerate(texts, 2)
    ]


def test_predicted_classes_belong_to_the_examples_that_were_not_dropped(tmp_path, rng, capsys):
    folder = tiny.classifier_folder(tmp_path, 5, RTE.labels)
    model, tokenizer = GPT2ForSequenceClassification.from_pretrained(folder), load_tokenizer(folder)
    examples = labelled(rng, 14)
    result, dataset, data = measured(model, tokenizer, RTE, examples)
    remaining = [example for example in examples if len(example.segments[0].text) < 101]
    assert len(data) == len(remaining) == 9 and result.examples == remaining
    write_predictions(tmp_path / "said.jsonl", RTE, result)
    written = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert result.gold == [example.label for example in remaining]
    for example, line in zip(remaining, written, strict=True):
        logits = example_logits(TorchClassifier, folder, tokenizer(example.segments[0].text)["input_ids"])
        assert line == {"source": example.source, "prediction": RTE.labels[int(logits.argmax())]}


def test_answers_are_measured_as_worked_by_hand(monkeypatch, talker, tokenizer):
    examples = [
        question("The tea is warm.", "What is warm?", "The tea", "tea is"),
        question("A sun and a moon.", "What is there?", "sun and a moon"),
        question("The tea is warm.", "Who is cold?"),  # nobody: there is no answer
        question("We drink.", "Who drinks?", "We"),
    ]
    say(monkeypatch, tokenizer, {"What is warm": "tea", "What is there": "moon", "Who is": "", "Who drinks": "you"})
    result, dataset, data = measured(talker, tokenizer, SQUAD, examples, max_new_tokens=20)
    assert result.predictions == ["tea", "moon", "", "you"] and result.examples == examples
    assert result.unasked == 0 and result.gold == []
    assert result.figures["exact_match"].value == 50  # "tea" without its article, and ""
    assert result.figures["f1"].value == pytest.approx(100 * (1 + 2 * (1 / 3) / (1 / 3 + 1) + 1 + 0) / 4)
    assert_intervals_hold_their_values(result.figures)


def test_the_loss_is_that_of_the_encoded_examples(folder, talker, tokenizer, rng):
    lines = ["".join(rng.choice(list("abcdefg "), 40)) for _ in range(4)]
    examples = [Example((Segment(text, scored=True),), f"text:{number}") for number, text in enumerate(lines)]
    result, _, data = measured(talker, tokenizer, TEXT, examples, length=30)
    expected = np.concatenate([example_losses(folder, item) for item in data.items])
    assert result.figures["loss"].value == pytest.approx(expected.mean(), rel=1e-5)
    assert set(result.figures) == {"loss", "perplexity"} and result.predictions == result.examples == []
    assert_intervals_hold_their_values(result.figures)


def test_a_prompt_that_is_too_long_counts_as_an_empty_answer(monkeypatch, talker, tokenizer):
    examples = [question("Tea.", asked, "Tea") for asked in ("What?", "Why" * 22 + "?", "Who?")]
    say(monkeypatch, tokenizer, {"What": "tea", "Who": "sun"})
    result, _, data = measured(talker, tokenizer, SQUAD, examples, max_new_tokens=20)
    assert len(data) == 3 and result.unasked == 1
    assert result.predictions == ["tea", "", "sun"]
    assert result.figures["exact_match"].value == pytest.approx(100 / 3)


def test_a_question_is_asked_at_the_length_of_the_loss(monkeypatch, talker, tokenizer):
    examples = [question("Tea.", "What?", "Tea"), question("Tea.", "Who" * 7 + "?", "Tea")]
    say(monkeypatch, tokenizer, {"What": "tea", "Who": "sun"})
    for length, said in ((101, ["tea", "sun"]), (60, ["tea", ""])):
        result, *_ = measured(talker, tokenizer, SQUAD, examples, length, max_new_tokens=12)
        assert (result.predictions, result.unasked) == (said, said.count(""))


def test_one_example_has_no_interval(monkeypatch, talker, tokenizer):
    say(monkeypatch, tokenizer, {"What": "tea"})
    result, *_ = measured(talker, tokenizer, SQUAD, [question("Tea.", "What?", "Tea")], max_new_tokens=12)
    assert set(result.figures) == {"loss", "perplexity", "exact_match", "f1"} and result.figures["f1"].value == 100
    for figure in result.figures.values():
        assert np.isfinite(figure.value) and np.isnan([figure.low, figure.high]).all()
        assert report._interval(figure) is None and report._cell(figure) == f"{figure.value:,.3f}"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"predictions": "FOLDER"}, "^predictions FOLDER is a folder"),
        ({"confusion": "FOLDER/matrix"}, "^confusion must be a .png, .pdf or .svg file, unlike FOLDER/matrix"),
        ({"confusion": "FOLDER/a.png"}, "^confusion FOLDER/a.png is a folder"),
        ({"predictions": "/proc/said.json"}, "^cannot write /proc: .*; choose another --predictions"),
        ({"confusion": "/proc/new/a.png"}, "^cannot write /proc/new: .*; choose another --confusion"),
    ],
)
def test_files_that_cannot_be_written_are_refused_before_anything_is_measured(tmp_path, files, message):
    (tmp_path / "a.png").mkdir()
    paths = {name: Path(path.replace("FOLDER", str(tmp_path))) for name, path in files.items()}
    given = evaluate.EvaluationOptions(**paths)
    with pytest.raises(UserError, match=message.replace("FOLDER", str(tmp_path))):
        evaluate.check_outputs(given, RTE)


def test_answers_belong_to_their_questions_where_examples_are_dropped(monkeypatch, talker, tokenizer, tmp_path):
    examples = [question("Tea.", asked, "Tea") for asked in ("Why" * 40 + "?", "What?", "Who?")]
    say(monkeypatch, tokenizer, {"What": "tea", "Who": "sun"})
    result, _, data = measured(talker, tokenizer, SQUAD, examples, max_new_tokens=20)
    assert len(data) == 2 and len(data.dropped) == 1 and result.predictions == ["", "tea", "sun"]
    write_predictions(tmp_path / "said.json", SQUAD, result)
    written = json.loads((tmp_path / "said.json").read_text())
    assert written == {example.name: said for example, said in zip(examples, ["", "tea", "sun"], strict=True)}


def test_replies_are_measured_against_the_last_turn(monkeypatch, talker, tokenizer):
    turns = [["One sun.", "We like the warm tea."], ["Two.", "No.", "I see a cold sun today."], ["Six.", "Yes we do."]]
    examples = [
        Example(tuple(Segment(t, scored=i > 0) for i, t in enumerate(said)), f"test.txt:{number}")
        for number, said in enumerate(turns, 1)
    ]
    say(monkeypatch, tokenizer, {"One": "We like the cold tea.", "Two": "I see a cold sun now.", "Six": "We see."})
    result, *_ = measured(talker, tokenizer, CHAT, examples, max_new_tokens=20)
    assert result.predictions == ["We like the cold tea.", "I see a cold sun now.", "We see."]
    expected = sacrebleu.corpus_bleu(result.predictions, [[said[-1] for said in turns]]).score
    assert result.figures["bleu"].value == pytest.approx(expected) and expected > 10
    # we like the cold tea . | i see a cold sun now . | we see . -> 6 + 7 + 3 words
    assert result.figures["distinct_1"].value == 11 / 16 and result.figures["distinct_2"].value == 13 / 13
    assert_intervals_hold_their_values(result.figures)


def test_a_meaning_is_asked_once_and_judged_by_all_its_texts(monkeypatch, talker, tokenizer, tmp_path):
    texts = {"name[Ox]": ["Ox is a nice pub in town.", "A pub is Ox."], "name[Yew]": ["Yew is by the river."]}
    texts["name[Ox]"] *= 2  # in which order they stand makes no difference
    pairs = [(meaning, text) for meaning, several in texts.items() for text in several]
    examples = [
        Example((*E2E.prompt(meaning).segments, Segment(f" {text}", scored=True)), f"test.csv:{line}", references=right)
        for line, (meaning, text) in enumerate([pairs[0], pairs[4], *pairs[1:4]], 2)
        for right in [tuple(texts[meaning])]
    ]
    monkeypatch.setattr(meteor.shutil, "which", lambda name: None)
    say(monkeypatch, tokenizer, {"Ox": "A pub is Ox.", "Yew": "Yew is  by\na river."})
    result, dataset, data = measured(talker, tokenizer, E2E, examples, max_new_tokens=20)
    assert [example.source for example in result.examples] == ["test.csv:2", "test.csv:3"] and len(data) == 5
    assert result.predictions == ["A pub is Ox.", "Yew is  by\na river."]
    assert list(result.figures) == ["loss", "perplexity", "bleu", "nist", "rouge_l", "cider"]
    statistics, missing = statistics_of(result.predictions, [texts["name[Ox]"], texts["name[Yew]"]])
    for name, statistic in statistics.items():
        assert result.figures[name].value == statistic(np.arange(2))
    assert result.notes[1:] == [missing] == ["meteor left out: METEOR needs Java, which is not there"]
    assert result.notes[0].startswith("bleu to cider: e2e-metrics' figures of 2 meanings")
    assert_intervals_hold_their_values(result.figures)
    assert set(trivial(E2E, dataset, data)[1]) == {"loss", "perplexity"}
    write_predictions(tmp_path / "said.txt", E2E, result)
    assert (tmp_path / "said.txt").read_text() == "A pub is Ox.\nYew is by a river.\n"


@pytest.mark.parametrize("task", [CHAT, DOLLY, E2E, SQUAD, TEXT], ids=lambda task: task.name)
def test_without_decoding_nothing_is_generated(talker, tokenizer, task, monkeypatch):
    monkeypatch.setattr(running, "continued", None)
    examples = [Example((Segment("We.", scored=False, cut=True), Segment("Tea.", scored=True)), "file:1")]
    assert set(measured(talker, tokenizer, task, examples)[0].figures) == {"loss", "perplexity"}


def test_the_trivial_classifier_says_the_most_frequent_class():
    data = EncodedSet([Encoded(np.arange(3), np.arange(3), label) for label in (1, 0, 1, 1)])
    how, figures = trivial(RTE, Dataset("rte", "test", []), data)
    assert how == "always not_entailment" and figures["accuracy"].value == 75
    assert figures["macro_f1"].value == pytest.approx(100 * (0 + 2 * 3 / (2 * 3 + 1)) / 2)


def test_the_trivial_language_model_knows_each_tokens_frequency():
    labels = [[9, IGNORED, 5, 5, 6], [9, 5], [5, IGNORED, 7, 7, 6, IGNORED]]  # a first token is never scored
    items = [Encoded(np.array(each), np.array(each, np.int32)) for each in labels]
    how, figures = trivial(CHAT, Dataset("dailydialog", "test", []), EncodedSet(items))
    shares = np.array([3, 2, 2]) / 7  # of 5, 6 and 7 among the scored
    assert figures["loss"].value == pytest.approx(-(shares * np.log(shares)).sum())  # their entropy
    assert set(figures) == {"loss", "perplexity"} and "frequency" in how
    assert_intervals_hold_their_values(figures)


def test_the_trivial_answer_is_the_whole_context(tokenizer):
    examples = [question("The tea.", "What?", "tea"), question("A sun we see.", "Who?", "we", "I")]
    dataset = Dataset("squad", "test", examples)
    how, figures = trivial(SQUAD, dataset, SQUAD.encode(examples, tokenizer, 101))
    assert "whole context" in how and figures["exact_match"].value == 50
    assert figures["f1"].value == pytest.approx(100 * (1 + 2 * (1 / 3) / (1 / 3 + 1)) / 2)
