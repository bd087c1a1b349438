"""The command that makes what the embedded model is pretrained from, and that stores it when it is."""

import json

import pytest
import torch
import transformers
from commands import assert_one_line_error, command

from datasets.tasks import dolly, imdb, squad
from gpt2_jittor.checkpoint.locate import NANO

BUILD = "checkpoints/build_nano.py"
END = "\n<|endoftext|>\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    output = tmp_path_factory.mktemp("nano")
    given = {
        "--squad": squad.SAMPLE_DIR / "train-v1.1.json",
        "--dolly": dolly.SAMPLE_DIR / dolly.FILE,
        "--imdb": imdb.SAMPLE_DIR,
        "--tokenizer": NANO,
    }
    done = command(BUILD, *(part for option in given.items() for part in option), "--output", output)
    assert done.returncode == 0, done.stderr
    return output


def text(built, name):
    return (built / "text" / name).read_text(encoding="utf-8").removesuffix("\n").split(END)


def test_what_tasks_validate_and_test_on_is_never_read(built):
    read = "\n".join([*text(built, "train.txt"), *text(built, "validation.txt")])
    for split in ("validation", "test"):
        for example in dolly.load(split, dolly.SAMPLE_DIR).examples:
            assert example.references[0] not in read
    for example in squad.load("validation", squad.SAMPLE_DIR).examples:
        assert example.segments[1].text.strip() not in read
    for example in imdb.load("validation", imdb.SAMPLE_DIR).examples:
        assert example.segments[0].text not in read


def test_every_50th_document_is_for_validation_and_dolly_is_read_twice(built):
    train, held_out = text(built, "train.txt"), text(built, "validation.txt")
    assert not set(train) & set(held_out)
    responses = [example.references[0] for example in dolly.load("train", dolly.SAMPLE_DIR).examples]
    times = {sum(document.endswith(f"\n{response}") for document in train) for response in responses}
    assert times == {0, 2}
    reviews = {example.segments[0].text for example in imdb.load("train", imdb.SAMPLE_DIR).examples}
    assert sum(document in reviews for document in train) == len(reviews - set(held_out))
    distinct = len(set(train)) + len(held_out)
    assert len(held_out) == pytest.approx(distinct / 50, abs=2)


def test_a_question_stands_above_its_answer_behind_its_paragraph(built):
    articles = json.loads((squad.SAMPLE_DIR / "train-v1.1.json").read_text(encoding="utf-8"))["data"]
    paragraph = articles[-1]["paragraphs"][0]
    first = paragraph["qas"][0]
    wanted = "\n".join([paragraph["context"].strip(), first["question"].strip(), first["answers"][0]["text"]])
    assert wanted in "\n".join([*text(built, "train.txt"), *text(built, "validation.txt")])


def test_the_tokenizer_is_kept_and_the_finished_model_loads_in_transformers(built, tmp_path):
    done = command(BUILD, "--finish", built / "model", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (NANO / name).read_bytes()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.dtype == torch.float16 and model.config.attn_pdrop == 0.1


def test_a_command_that_says_too_little_is_one_line(tmp_path):
    assert_one_line_error(command(BUILD, "--squad", "train-v1.1.json", "--output", tmp_path), "--imdb")
