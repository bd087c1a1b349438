"""What a model's folder says of generation, in the folders that are made of it: saved, merged, trained."""

import json
import shutil

import numpy as np
import pytest
import tiny
import transformers

import evaluate
import lora
from common.errors import UserError
from datasets import tasks
from gpt2_jittor import GPT2ForSequenceClassification, GPT2LMHeadModel
from gpt2_jittor.checkpoint.tokenizer import add_tokens, load_tokenizer
from lora.merging import plan, write
from lora.source import find
from training.arguments import TrainingArguments
from training.reply import replied
from training.setup import build_model, build_trainer, read_inputs

SAID = [
    {"_from_model_config": True, "bos_token_id": 256, "eos_token_id": 256, "transformers_version": "4.40.0"},
    {"bos_token_id": 256, "eos_token_id": [256, 12], "repetition_penalty": 1.3, "do_sample": True, "top_p": 0.8},
    {"eos_token_id": [7, 256], "suppress_tokens": [3], "pad_token_id": None, "a_note": {"ü \ud800": [1.5, None]}},
    {"temperature": 0.6, "eos_token_id": 256, "max_length": 50, "num_beams": 2, "early_stopping": "never"},
]
ELSEWHERE = [{"eos_token_id": [7, 12]}, {"top_k": 4}]  # that is not where training here ends its answers


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("plain") / "model", seed=3)


@pytest.fixture
def base(plain, tmp_path):
    """Makes a copy of the folder whose generation_config.json says something else, or is not there."""

    def made(said: dict | None, **config):
        folder = shutil.copytree(plain, tmp_path / "base")
        stored = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(stored | config))
        (folder / "generation_config.json").unlink()
        if said is not None:
            (folder / "generation_config.json").write_text(json.dumps(said))
        return folder

    return made


def said_in(folder) -> dict:
    return json.loads((folder / "generation_config.json").read_text())


def adapter(base, folder, kind=GPT2LMHeadModel, *labels, **settings):
    model = kind.from_pretrained(base, *labels)
    lora.inject(model, lora.LoraConfig(r=2, base_model_name_or_path=str(base), **settings))
    lora.save_adapter(model, folder)
    return folder


@pytest.mark.parametrize("said", SAID + ELSEWHERE)
def test_it_is_the_same_field_for_field_where_a_model_is_saved_and_where_it_is_merged(base, tmp_path, said):
    folder = base(said)
    GPT2LMHeadModel.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    write(plan(adapter(folder, tmp_path / "adapter")), tmp_path / "merged")
    labels = ["no", "yes"]
    settings = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    classifier = adapter(folder, tmp_path / "classifier", GPT2ForSequenceClassification, labels, **settings)
    write(plan(classifier), tmp_path / "classes")
    assert said_in(tmp_path / "saved") == said_in(tmp_path / "merged") == said_in(tmp_path / "classes") == said


def test_what_config_json_alone_says_is_said_in_the_merged_folder_too(base, tmp_path):
    folder = base(None, eos_token_id=[7, 256], repetition_penalty=1.4, top_k=9)
    write(plan(adapter(folder, tmp_path / "adapter")), tmp_path / "merged")
    theirs, ours = (
        transformers.GPT2LMHeadModel.from_pretrained(it).generation_config.to_diff_dict()
        for it in (folder, tmp_path / "merged")
    )
    theirs.pop("use_cache")  # on which no text depends
    assert ours == theirs and (ours["eos_token_id"], ours["repetition_penalty"], ours["top_k"]) == ([7, 256], 1.4, 9)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["eos_token_id"] == [7, 256]


@pytest.mark.parametrize(
    ("said", "ends"), [(SAID[0], 257), (SAID[1], [256, 12, 257]), (ELSEWHERE[0], [7, 12, 257]), (ELSEWHERE[1], 257)]
)
def test_an_adapters_own_end_token_stays_one_beside_the_bases(base, tmp_path, said, ends):
    folder = base(said)
    tokenizer = load_tokenizer(folder)
    add_tokens(tokenizer, ["<END>"])
    made = adapter(folder, tmp_path / "adapter", trainable_token_indices=[257])
    tokenizer.save_pretrained(made)
    write(plan(made), tmp_path / "merged")
    assert said_in(tmp_path / "merged") == said | {"eos_token_id": ends, "pad_token_id": 256}
    several = tuple(np.atleast_1d(ends).tolist())
    assert find(None, made).ends() == find(str(tmp_path / "merged"), None).ends() == several


@pytest.mark.parametrize(("said", "ends"), [(SAID[1], (256, 12)), (ELSEWHERE[0], (7, 12)), (ELSEWHERE[1], (256,))])
def test_answers_of_an_adapter_from_elsewhere_end_where_the_bases_end(base, tmp_path, said, ends):
    made = adapter(base(said), tmp_path / "adapter")
    assert find(None, made).ends() == ends
    (made / "arguments.yaml").write_text("task: squad\n")  # trained here, and so with the tokenizer's end token
    assert set(find(None, made).ends()) == {*ends, 256}


def inputs_of(folder, tmp_path, **settings):
    tiny.dialogue_folder(tmp_path / "data", seed=2)
    given = TrainingArguments(model=str(folder), data_dir=str(tmp_path / "data"), output_dir=str(tmp_path / "run"))
    return read_inputs(TrainingArguments(**(vars(given) | settings)), say=lambda text: None)


@pytest.mark.parametrize(
    ("said", "more"),
    [(said, {}) for said in SAID]
    + [(ELSEWHERE[0], {"eos_token_id": [7, 12, 256], "pad_token_id": 256})]
    + [(ELSEWHERE[1], {"eos_token_id": 256, "pad_token_id": 256})],
)
def test_a_fully_tuned_run_says_what_its_base_said_and_where_it_learnt_to_end(base, tmp_path, said, more):
    build_model(inputs_of(base(said), tmp_path, tuning="full")).save_pretrained(tmp_path / "run")
    assert said_in(tmp_path / "run") == said | more


def test_the_sample_reply_and_the_answers_of_evaluate_end_at_each_end_token(base, tmp_path, monkeypatch):
    folder = base(SAID[1])
    inputs = inputs_of(folder, tmp_path, max_steps=1)
    ends = []
    monkeypatch.setattr("training.reply.stream", lambda *given: ends.append(tuple(given[-1])) or iter(()))
    trainer = build_trainer(inputs)
    assert "<" in replied(trainer.model, trainer.sample, trainer.tokenizer)
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--task", "dailydialog", "--model", str(folder)])
    how, given = evaluate.parse()
    ends.append(evaluate.answer_options(given, tasks.find("dailydialog"), find(how.model, None)).end_ids)
    assert ends == [(256, 12), (256, 12)]


def test_a_bad_end_token_is_told_before_training_and_merging(base, tmp_path):
    folder = base({"eos_token_id": [256, "400"]})
    made = adapter(folder, tmp_path / "adapter")
    for act in (lambda: inputs_of(folder, tmp_path), lambda: plan(made), lambda: find(None, made).ends()):
        with pytest.raises(UserError, match="generation_config.json: eos_token_id must be a token's id or a list"):
            act()


@pytest.mark.parametrize(("said", "ends"), [(50256, (256,)), ([-1, 301, 12], (12,)), ([1 << 70, 256, 12], (256, 12))])
def test_end_tokens_outside_the_vocabulary_hinder_nobody_and_go_on_with_the_model(base, tmp_path, said, ends):
    folder = base({"eos_token_id": said})
    made = adapter(folder, tmp_path / "adapter")
    inputs_of(folder, tmp_path)
    write(plan(made), tmp_path / "merged")
    assert find(None, made).ends() == find(str(tmp_path / "merged"), None).ends() == ends
    assert said_in(tmp_path / "merged")["eos_token_id"] == said
