"""Finished runs in use: where their parts are found, what they may be used for, and PEFT's logits for each kind."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import peft
import pytest
import tiny
import torch
import transformers
from references import LOGITS, torch_logits

import train
from common.errors import UserError
from datasets import tasks
from generation.loading import check_task
from lora.load import load
from lora.source import ModelSource, find, run_arguments

CHAT, EMOTION, RTE, TEXT = map(tasks.find, ("dailydialog", "emotion", "rte", "text"))
ADDED = ("<USER>", "<BOT>", "<END>")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base model without an entry to spare, dialogues, and runs of two updates: chat, with tokens, emotion, full."""
    root = tmp_path_factory.mktemp("world")
    tiny.model_folder(root / "base", seed=1, vocab_size=257)
    tiny.dialogue_folder(root / "data", seed=2)
    chat = ("--task", "dailydialog", "--data-dir", root / "data")
    emotion = ("--task", "emotion", "--data-dir", "sample", "--eval-limit", 4)
    kinds = {
        "chat": chat,
        "tokens": (*chat, "--added-tokens", *ADDED),
        "emotion": emotion,
        "full": (*chat, "--tuning", "full"),
        "full-tokens": (*chat, "--tuning", "full", "--added-tokens", *ADDED),
        "full-emotion": (*emotion, "--tuning", "full"),
    }
    for name, options in kinds.items():
        options = (*options, "--model", root / "base", "--output-dir", root / name, "--max-steps", 2)
        options = (*options, "--batch-size", 2, "--learning-rate", 0.05, "--warmup-steps", 0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["train.py", *map(str, options)])
            train.main()
    return root


def torch_model(world, run: str):
    """The run as PEFT reads it, by the very words of its card."""
    (line,) = [line for line in (world / run / "README.md").read_text().splitlines() if line.startswith("With PEFT")]
    return eval(line.split("`")[1], vars(peft) | {"torch": torch, "FOLDER": world / run}).eval()


def test_a_chats_merged_logits_are_pefts(world, rng):
    found = find(None, world / "chat")
    assert (found.directory, found.folder, found.classifies) == (world / "base", world / "chat", False)
    assert found.arguments["task"] == "dailydialog" and found.config.vocab_size == len(found.tokenizer) == 257
    ids = rng.integers(0, 257, (3, 17))
    expected = torch_logits(torch_model(world, "chat"), ids)
    np.testing.assert_allclose(load(found)(ids).numpy(), expected, rtol=0, atol=LOGITS)
    base = torch_logits(transformers.GPT2LMHeadModel.from_pretrained(world / "base"), ids)
    assert np.abs(expected - base).max() > 100 * LOGITS  # the adapter says something


def test_added_tokens_are_found_and_their_logits_are_pefts(world, rng):
    found = find(None, world / "tokens")
    assert found.config.vocab_size == len(found.tokenizer) == 257 + len(ADDED)
    assert found.tokenizer.eos_token == "<END>" and found.tokenizer.convert_tokens_to_ids("<USER>") == 257
    ids = rng.integers(0, 260, (3, 17))
    ids[:, 3:6] = 257, 258, 259
    model = torch_model(world, "tokens")
    np.testing.assert_allclose(load(found)(ids).numpy(), torch_logits(model, ids), rtol=0, atol=LOGITS)
    (prompt,) = CHAT.encode_prompt(CHAT.prompt(["a"]), found.tokenizer, 50)
    assert prompt.tolist() == [257, *found.tokenizer.encode("a"), 259, 258]


def test_a_classifiers_merged_logits_are_pefts(world):
    found = find(None, world / "emotion")
    assert found.classifies and found.directory == world / "base"
    model = torch_model(world, "emotion")
    (line,) = [line for line in (world / "emotion/README.md").read_text().splitlines() if line.startswith("For batch")]
    exec(line.split("`")[1], {"model": model})
    assert_batch_is_classified_alike(load(found.with_labels(EMOTION.labels)), model)


def assert_batch_is_classified_alike(ours, model):
    """Texts of uneven lengths together: each side finds their last tokens in its own way."""
    ids, _, mask = tiny.padded_batch(seed=3)
    ids = np.where(mask == 1, ids % 256, 256)
    np.testing.assert_allclose(ours(ids, mask).numpy(), torch_logits(model, ids), rtol=0, atol=LOGITS)


def test_a_classifier_is_known_by_its_head_where_its_settings_name_no_kind(world, adapter, rng):
    folder = adapter(source="emotion", task_type=None)
    found, ids = find(None, folder), rng.integers(0, 256, (1, 17))
    assert found.classifies
    expected = load(find(None, world / "emotion").with_labels(EMOTION.labels))(ids).numpy()
    np.testing.assert_array_equal(load(found.with_labels(EMOTION.labels))(ids).numpy(), expected)


@pytest.mark.parametrize(
    ("run", "task", "kind"),
    [
        ("full", CHAT, transformers.GPT2LMHeadModel),
        ("full-emotion", EMOTION, transformers.GPT2ForSequenceClassification),
    ],
)
def test_a_fully_tuned_run_is_a_model_of_its_own(world, run, task, kind, rng):
    found = find(str(world / run), None)
    assert (found.directory, found.adapter) == (world / run, None) and found.arguments["task"] == task.name
    assert found.classifies == (task is EMOTION)
    ids = rng.integers(0, 256, (1, 17))
    expected = torch_logits(kind.from_pretrained(world / run).eval(), ids)
    np.testing.assert_allclose(load(found.with_labels(task.labels))(ids).numpy(), expected, rtol=0, atol=LOGITS)


def test_a_fully_tuned_run_ends_with_the_token_that_it_learnt_to_end_with(world):
    found = find(str(world / "full-tokens"), None)
    end = found.tokenizer.convert_tokens_to_ids("<END>")
    for name in ("config.json", "generation_config.json"):
        stored = json.loads((world / "full-tokens" / name).read_text())
        assert (stored["eos_token_id"], stored["pad_token_id"]) == (end, 256) == (259, 256), name
    model = transformers.GPT2LMHeadModel.from_pretrained(world / "full-tokens").eval()
    model.lm_head.bias = torch.nn.Parameter(1e4 * torch.eye(260)[end])  # nothing else is ever said
    assert model.generate(torch.tensor([[257, 97, end, 258]]), max_new_tokens=9)[0].tolist() == [257, 97, end, 258, end]


def test_transformers_classifies_batches_with_a_fully_tuned_run_as_it_stands(world):
    model = transformers.GPT2ForSequenceClassification.from_pretrained(world / "full-emotion").eval()
    assert_batch_is_classified_alike(load(find(str(world / "full-emotion"), None).with_labels(EMOTION.labels)), model)


def test_tokens_that_the_tokenizer_does_not_have_are_refused(world, adapter):
    checkpoint = world / "tokens" / "checkpoint-2"
    folder = adapter(source="tokens")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    for where in (folder, checkpoint):
        with pytest.raises(
            UserError, match=f"^{where} trained token 257, its tokenizer has 257: give .* tokenizer.json"
        ):
            find(None, where)


def test_nothing_named_is_nano():
    found = find(None, None)
    assert found.directory.name == "gpt2-nano" and (found.adapter, found.arguments, found.classifies) == (
        None,
        {},
        False,
    )


@pytest.fixture
def adapter(world, tmp_path):
    """Copies a run's adapter and changes what is said of its base and its kind; returns the copy."""

    def changed(model: str | None = "", source: str = "chat", **settings) -> Path:
        folder = tmp_path / "adapter"
        shutil.copytree(world / source, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
        stored = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(stored | settings))
        recipe = folder / "arguments.yaml"
        if model is None:
            recipe.unlink()
        elif model:
            recipe.write_text(recipe.read_text().replace(f"model: {world / 'base'}", f"model: {model}"))
        return folder

    return changed


def test_the_base_is_the_adapters_folder_before_the_arguments(world, adapter):
    assert find(None, adapter(model="nano")).directory == world / "base"


def test_where_the_adapters_folder_is_gone_the_arguments_name_the_base(world, adapter):
    assert find(None, adapter(base_model_name_or_path="/on/another/machine")).directory == world / "base"


def test_what_is_given_comes_before_what_the_adapter_names(world, adapter, tmp_path):
    other = shutil.copytree(world / "base", tmp_path / "other")
    assert find(str(other), adapter()).directory == other


def test_a_base_with_other_weights_than_the_adapters_is_refused(world, adapter, tmp_path):
    other = tiny.model_folder(tmp_path / "other", seed=9, vocab_size=257)
    with pytest.raises(UserError, match="trained on another base than .*other.*model"):
        find(str(other), adapter())


@pytest.mark.parametrize(
    ("base", "message"),
    [(None, "does not name its base model; give it with model"), ("/gone", "/gone.*give it with model")],
)
def test_an_adapter_whose_base_is_nowhere_is_refused(adapter, base, message):
    with pytest.raises(UserError, match=message):
        find(None, adapter(base_model_name_or_path=base, model=None))


def test_a_folder_that_is_no_run_is_refused(world, tmp_path):
    with pytest.raises(UserError, match="holds no adapter"):
        find(None, tmp_path)
    with pytest.raises(UserError, match="give it as adapter"):
        find(str(world / "chat"), None)


def test_an_adapter_from_elsewhere_has_no_arguments(world, adapter):
    found = find(None, adapter(model=None))
    assert found.arguments == {} and found.directory == world / "base"


def test_settings_of_a_tokenizer_without_its_vocabulary_are_no_tokenizer(adapter):
    folder = adapter()
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 99}')
    assert len(find(None, folder).tokenizer) == 257


def test_an_adapter_of_a_resized_model_that_kept_its_tokenizer_gets_as_many_entries(world, tmp_path, rng):
    """PEFT stores a resized embedding whole; the tokenizer may have stayed with the base."""
    model = transformers.GPT2LMHeadModel.from_pretrained(world / "base")
    model.resize_token_embeddings(264)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=True, r=2))
    wrapped.save_pretrained(tmp_path, save_embedding_layers=True)
    found = find(str(world / "base"), tmp_path)
    assert found.config.vocab_size == 264 and len(found.tokenizer) == 257
    ids = rng.integers(0, 264, (2, 9))
    np.testing.assert_allclose(load(found)(ids).numpy(), torch_logits(wrapped.eval(), ids), rtol=0, atol=LOGITS)


def test_a_base_that_classifies_is_recognised_by_its_configuration(world, tmp_path):
    folder = tiny.classifier_folder(tmp_path / "classifier", 3, EMOTION.labels)
    assert find(str(folder), None).classifies and not find(str(world / "base"), None).classifies


def source(classifies: bool, adapter: bool, trained: str | None) -> ModelSource:
    base = SimpleNamespace(directory=Path("models/it"), classifies=classifies)
    arguments = {"task": trained} if trained else {}
    stored = SimpleNamespace(is_classifier=classifies) if adapter else None
    folder = Path("runs/it") if adapter else base.directory
    return ModelSource(base, None, None, None, folder, stored, arguments)


IS_CLASSIFIER, NO_CLASSIFIER, OTHERS = "is a classifier", "is no classifier", "tells other classes apart"


@pytest.mark.parametrize(
    ("classifies", "adapter", "trained", "task", "bare", "refused"),
    [
        (False, False, None, TEXT, False, None),
        (False, True, "dailydialog", CHAT, False, None),
        (False, True, "dailydialog", TEXT, False, None),  # who talks can continue a text
        (False, False, None, EMOTION, True, None),  # measured under a head that was never trained
        (False, False, None, EMOTION, False, NO_CLASSIFIER),
        (False, True, "dailydialog", EMOTION, True, NO_CLASSIFIER),
        (False, True, None, EMOTION, False, NO_CLASSIFIER),
        (True, True, "emotion", EMOTION, False, None),
        (True, False, "emotion", EMOTION, True, None),
        (True, True, None, RTE, False, None),  # from elsewhere: its head's size will tell
        (True, True, "emotion", RTE, False, OTHERS),
        (True, False, "emotion", RTE, True, OTHERS),
        (True, True, "emotion", CHAT, False, IS_CLASSIFIER),
        (True, False, None, TEXT, True, IS_CLASSIFIER),
    ],
)
def test_what_was_trained_is_used_for_what_it_can_do(classifies, adapter, trained, task, bare, refused):
    found = source(classifies, adapter, trained)
    if refused is None:
        return check_task(found, task, bare)
    with pytest.raises(UserError, match=refused) as caught:
        check_task(found, task, bare)
    named = "runs/it" if adapter else "models/it"
    assert str(caught.value).startswith(named) and task.name in str(caught.value)
    return None


def test_a_head_with_another_number_of_classes_is_refused(world, adapter):
    with pytest.raises(UserError, match="does not fit this model.*score"):
        load(find(None, adapter(source="emotion", model=None)).with_labels(RTE.labels))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("labels: [a, 3]", "labels must be a list of texts, not ['a', 3]"),
        ("columns: prompt=a", "columns must be a list of texts, not 'prompt=a'"),
        ("task: 3", "task must be str, not 3"),
    ],
)
def test_arguments_of_another_type_are_the_users_error(tmp_path, line, words):
    (tmp_path / "arguments.yaml").write_text(line + "\n")
    with pytest.raises(UserError) as caught:
        run_arguments(tmp_path)
    assert str(caught.value) == f"{tmp_path}/arguments.yaml: {words}"
