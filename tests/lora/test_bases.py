"""Adapters and runs on copies of their base and on others: what goes on, what is refused, what --ignore-base does."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import tiny
import torch
from adapters import assert_refused, run_lora
from copies import COPIES, OTHER_VALUES, folder_of

import lora
from gpt2_jittor import GPT2ForSequenceClassification, GPT2LMHeadModel
from gpt2_jittor.checkpoint.fingerprint import digest, fingerprint
from gpt2_jittor.checkpoint.stored import EMBEDDING, HEAD, open_model
from lora import combination, inspection
from lora.files import BASE, WEIGHTS, read_adapter
from lora.load import load
from lora.merging import plan
from lora.source import find
from training.arguments import TrainingArguments
from training.fingerprint import check_same
from training.fingerprint import fingerprint as run_fingerprint
from training.setup import read_inputs

ANOTHER = "trained on another base than"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base, an adapter of each kind that was trained on it, copies of the base and others."""
    root = tmp_path_factory.mktemp("world")
    tiny.model_folder(root / "base", seed=1)
    state = safetensors.torch.load_file(root / "base" / "model.safetensors")
    config = json.loads((root / "base" / "config.json").read_text())
    others = {
        "head": state | {HEAD: torch.randn_like(state[EMBEDDING])},
        "weights": state | {EMBEDDING: 1.01 * state[EMBEDDING]},
    }
    folders = {"bf16": COPIES["bfloat16"](state), "fp16": COPIES["float16"](state), "padded": COPIES["padded"](state)}
    for name, tensors in (folders | others | {"config": state}).items():
        folder_of(root / name, tensors, config | ({"activation_function": "relu"} if name == "config" else {}))
        tiny.save_tokenizer(root / name)
    language = GPT2LMHeadModel.from_pretrained(root / "base")
    classifier = GPT2ForSequenceClassification.from_pretrained(root / "base", ["no", "yes"])
    for name, model, task in (("talks", language, "CAUSAL_LM"), ("classifies", classifier, "SEQ_CLS")):
        settings = {"base_model_name_or_path": str(root / "base"), "task_type": task, "init_lora_weights": False}
        lora.save_adapter(lora.inject(model, lora.LoraConfig(r=2, **settings)), root / name)
    return root


@pytest.mark.parametrize("name", ["base", "bf16", "fp16", "padded"])
def test_a_copy_of_the_base_is_used(world, name):
    for adapter in ("talks", "classifies"):
        found = find(str(world / name), world / adapter)
        assert found.directory == world / name and plan(world / adapter, str(world / name)).directory == world / name
    model = GPT2LMHeadModel.from_pretrained(world / name)
    assert lora.load_adapter(model, world / "talks").r == 2


def test_a_copy_gives_the_bases_numbers_to_its_rounding(world, rng):
    ids = rng.integers(0, 256, (2, 9))
    logits = {name: load(find(str(world / name), world / "talks"))(ids).numpy() for name in ("base", "bf16", "padded")}
    np.testing.assert_array_equal(logits["padded"][..., :301], logits["base"])
    assert 0 < np.abs(logits["bf16"] - logits["base"]).max() < 1


@pytest.mark.parametrize(
    ("adapter", "name", "words"),
    [
        ("talks", "head", [HEAD]),
        ("talks", "weights", [EMBEDDING]),
        ("talks", "config", ["activation_function 'relu' instead of 'gelu_new'"]),
        ("classifies", "weights", [EMBEDDING]),
        ("classifies", "config", ["activation_function"]),
    ],
)
def test_another_base_is_refused_wherever_it_is_given_and_taken_with_ignore_base(
    world, adapter, name, words, monkeypatch, tmp_path, capsys
):
    directory, base = world / adapter, world / name
    kind = GPT2LMHeadModel if adapter == "talks" else GPT2ForSequenceClassification

    def model():
        return kind.from_pretrained(base, *[["no", "yes"]] * (adapter == "classifies"))

    calls = {
        "find": lambda **ignore: find(str(base), directory, **ignore),
        "plan": lambda **ignore: plan(directory, str(base), **ignore),
        "load_adapter": lambda **ignore: lora.load_adapter(model(), directory, **ignore),
        "Adapters": lambda **ignore: lora.Adapters(model()).load(directory, "a", **ignore),
    }
    for call in calls.values():
        assert_refused(call, str(directory), ANOTHER, str(base), "--model", "--ignore-base", *words)
        call(ignore_base=True)
    given = ["--adapter", directory, "--model", base]
    assert_refused(lambda: run_lora(monkeypatch, "inspect", *given), ANOTHER, *words)
    run_lora(monkeypatch, "inspect", *given, "--ignore-base", "--json")
    assert "relative" in json.loads(capsys.readouterr().out)["projections"][0]
    merge = ["merge", *given, "--output", tmp_path / "merged"]
    assert_refused(lambda: run_lora(monkeypatch, *merge), ANOTHER, *words)
    assert not (tmp_path / "merged").exists()
    run_lora(monkeypatch, *merge, "--ignore-base")
    assert open_model(tmp_path / "merged").config.n_embd == 36


def test_a_classifiers_adapter_does_not_care_for_a_language_models_head(world):
    assert find(str(world / "head"), world / "classifies").classifies


def test_inspect_measures_against_no_base_that_is_another(world, tmp_path, monkeypatch, capsys):
    """An adapter that names its base by a folder that has become another."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / WEIGHTS).write_bytes((world / "talks" / WEIGHTS).read_bytes())
    settings = json.loads((world / "talks" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(world / "weights")
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    run_lora(monkeypatch, "inspect", "--adapter", adapter)
    said = capsys.readouterr()
    assert said.err.startswith("note: without the base's norms: ") and ANOTHER in said.err and "‖W‖" not in said.out
    assert "‖W‖" in inspection.describe(inspection.inspect(adapter, world / "base"))


def adapter_on(world, tmp_path, name: str):
    model = lora.inject(GPT2LMHeadModel.from_pretrained(world / name), lora.LoraConfig(r=2, init_lora_weights=False))
    lora.save_adapter(model, tmp_path / name)
    return tmp_path / name


def test_adapters_of_copies_are_added_up_and_of_others_only_with_ignore_base(world, tmp_path, monkeypatch):
    for name, refused in (("bf16", None), ("padded", None), ("weights", EMBEDDING), ("config", "activation_function")):
        second = adapter_on(world, tmp_path, name)
        output = tmp_path / f"talks and {name}"
        given = ["combine", "--adapter", world / "talks", second, "--weights", 1, 1, "--output", output]
        if refused:
            assert_refused(lambda line=given: run_lora(monkeypatch, *line), "different bases", refused, "--ignore-base")
            assert not output.exists()
            given.append("--ignore-base")
        run_lora(monkeypatch, *given)
        assert read_adapter(output).base == read_adapter(world / "talks").base


def test_a_sum_of_adapters_that_were_taken_with_ignore_base_is_used(world, tmp_path):
    adapters = lora.Adapters(GPT2LMHeadModel.from_pretrained(world / "base"))
    adapters.load(world / "talks", "own")
    adapters.load(adapter_on(world, tmp_path, "weights"), "other", ignore_base=True)
    adapters.use({"own": 0.5, "other": 0.5})
    adapters.save(tmp_path / "sum", {"own": 0.5, "other": 0.5})
    assert read_adapter(tmp_path / "sum").config.r == 4
    stored = {name: read_adapter(path) for name, path in (("own", world / "talks"), ("other", tmp_path / "weights"))}
    assert_refused(lambda: combination.combine(stored, {"own": 1, "other": 1}), "different bases")


def rewritten(adapter, folder, base: str):
    """The adapter with another text about its base."""
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    tensors = safetensors.numpy.load_file(adapter / WEIGHTS)
    safetensors.numpy.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt", BASE: base})
    return folder


def test_an_adapter_of_an_older_version_is_used_on_its_base_alone(world, tmp_path):
    from gpt2_jittor.checkpoint.fingerprint import _first_form

    older = rewritten(world / "talks", tmp_path / "older", _first_form(world / "base"))
    assert find(str(world / "base"), older).folder == older
    assert_refused(lambda: find(str(world / "weights"), older), ANOTHER, "its weights differ", "--ignore-base")
    assert find(str(world / "weights"), older, ignore_base=True).folder == older


def test_an_adapter_that_tells_nonsense_of_its_base_is_refused_in_one_line(world, tmp_path):
    strange = rewritten(world / "talks", tmp_path / "strange", '{"version": 2, "config": {"n_layer": 1000000000}}')
    assert_refused(lambda: find(str(world / "base"), strange), ANOTHER, "cannot be read", "--ignore-base")
    assert find(str(world / "base"), strange, ignore_base=True).folder == strange


# --- a run that is taken up again: nothing at all may be another


@pytest.fixture
def identity(world, tmp_path):
    """What a run on a folder is recognised by."""
    tiny.dialogue_folder(tmp_path / "data", seed=2)

    def of(folder):
        given = TrainingArguments(model=str(folder), output_dir=str(tmp_path / "run"), data_dir=str(tmp_path / "data"))
        inputs = read_inputs(given, say=lambda text: None)
        return run_fingerprint(inputs.plan, digest(open_model(inputs.source.directory)), 5, "cpu")

    return of


def test_a_run_goes_on_with_the_same_base_in_other_files(world, tmp_path, identity):
    state = safetensors.torch.load_file(world / "base" / "model.safetensors")
    config = json.loads((world / "base" / "config.json").read_text())
    tiny.save_tokenizer(folder_of(tmp_path / "copy", COPIES["float64"](state), config))
    check_same(identity(world / "base"), identity(tmp_path / "copy"), tmp_path)


@pytest.mark.parametrize("what", [*OTHER_VALUES, "bf16", "fp16", "padded", "head", "weights"])
def test_a_run_does_not_go_on_with_a_base_that_computes_otherwise(world, tmp_path, identity, what):
    folder = world / what
    if what in OTHER_VALUES:
        state = safetensors.torch.load_file(world / "base" / "model.safetensors")
        config = json.loads((world / "base" / "config.json").read_text())
        folder = folder_of(tmp_path / "other", state, config | {what: OTHER_VALUES[what]})
        tiny.save_tokenizer(folder)
    words = "the base model's weights or its config.json are others"
    assert_refused(lambda: check_same(identity(world / "base"), identity(folder), tmp_path), words)


def test_an_adapter_carries_the_base_that_was_read_though_its_files_are_others_by_then(world, tmp_path):
    folder = shutil.copytree(world / "base", tmp_path / "base")
    before = fingerprint(open_model(folder))
    model = GPT2LMHeadModel.from_pretrained(folder)
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["c_attn"]))
    shutil.rmtree(folder)
    lora.save_adapter(model, tmp_path / "adapter")
    assert read_adapter(tmp_path / "adapter").base == before


def test_what_was_opened_is_told_apart_from_what_took_its_place(world, tmp_path):
    folder = shutil.copytree(world / "base", tmp_path / "base")
    opened, expected = open_model(folder), fingerprint(open_model(world / "base"))
    state = {name: value * 2 for name, value in safetensors.numpy.load_file(folder / "model.safetensors").items()}
    safetensors.numpy.save_file(state, tmp_path / "new")
    (tmp_path / "new").replace(folder / "model.safetensors")
    assert fingerprint(opened) == expected != fingerprint(open_model(folder))
