"""`python -m lora`: what merge, inspect and combine write and say, and how they end over mistakes."""

import json

import numpy as np
import peft
import pytest
import tiny
import torch
import transformers
import yaml
from adapters import assert_refused, edit, run_lora, train_at_random
from commands import assert_one_line_error, command
from references import LOGITS, our_logits
from tokenizers import Tokenizer

import lora
from gpt2_jittor import GPT2ForSequenceClassification, GPT2LMHeadModel
from lora import inspection
from lora.merging import plan, write
from lora.source import run_arguments

PLAIN = {"r": 3, "lora_alpha": 7, "target_modules": ["c_attn", "mlp.c_proj"]}


@pytest.fixture
def base(tmp_path, seed):
    return tiny.model_folder(tmp_path / "base", seed)


@pytest.fixture
def ids(rng):
    return rng.integers(0, 256, (3, 17))


def adapt(model, base, folder, rng, **settings):
    """Trains everything of an adapter at random and writes it; returns the model."""
    config = lora.LoraConfig(**(PLAIN | {"base_model_name_or_path": str(base)} | settings))
    train_at_random(lora.inject(model, config), rng)
    lora.save_adapter(model, folder)
    return model


def torch_logits(model, ids) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(ids), attention_mask=torch.ones(ids.shape)).logits.numpy()


def test_merge_writes_a_folder_that_transformers_loads(base, ids, rng, tmp_path):
    expected = our_logits(adapt(GPT2LMHeadModel.from_pretrained(base), base, tmp_path / "adapter", rng), ids)
    result = command("-m", "lora", "merge", "--adapter", tmp_path / "adapter", "--output", tmp_path / "merged")
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "merged") in result.stdout
    files = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= files
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(torch_logits(model, ids), expected, rtol=0, atol=LOGITS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    text = "Tea, I see\n"
    assert tokenizer(text)["input_ids"] == Tokenizer.from_file(str(base / "tokenizer.json")).encode(text).ids
    result = command("-m", "lora", "merge", "--adapter", tmp_path / "adapter", "--output", tmp_path / "merged")
    assert_one_line_error(result, tmp_path / "merged", "not empty")


def test_half_precision_is_the_rounded_merge(base, rng, tmp_path):
    adapt(GPT2LMHeadModel.from_pretrained(base), base, tmp_path / "adapter", rng)
    for dtype in ("float32", "float16"):
        write(plan(tmp_path / "adapter"), tmp_path / dtype, dtype)
    whole, half = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / dtype, dtype="auto").state_dict()
        for dtype in ("float32", "float16")
    )
    assert {value.dtype for value in half.values()} == {torch.float16}
    for name, value in whole.items():
        assert torch.equal(half[name], value.half()), name


def test_an_adapters_own_tokenizer_and_its_tokens_are_merged(base, ids, rng, tmp_path):
    tokenizer = transformers.GPT2TokenizerFast.from_pretrained(base)
    more = [f"<|{number}|>" for number in range(259, 305)]
    tokenizer.add_tokens(["<|user|>", "<|end|>", *more], special_tokens=True)  # the model has rows up to 300
    model = GPT2LMHeadModel.from_pretrained(base)
    model.resize_token_embeddings(305)
    adapt(model, base, tmp_path / "adapter", rng, trainable_token_indices=[257, 258, 304])
    tokenizer.eos_token = tokenizer.pad_token = "<|end|>"
    tokenizer.save_pretrained(tmp_path / "adapter")
    write(plan(tmp_path / "adapter"), tmp_path / "merged")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.config.vocab_size == 305 and merged.generation_config.eos_token_id == 258
    ids = np.concatenate([ids, [[257, 258, 304, *range(14)]]])
    np.testing.assert_allclose(torch_logits(merged, ids), our_logits(model, ids), rtol=0, atol=LOGITS)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert again("<|user|>a<|end|>")["input_ids"] == tokenizer("<|user|>a<|end|>")["input_ids"]
    assert again.eos_token == "<|end|>"


def test_tokens_that_the_tokenizer_does_not_have_are_not_merged(base, rng, tmp_path):
    adapt(GPT2LMHeadModel.from_pretrained(base), base, tmp_path / "adapter", rng, trainable_token_indices=[3, 257])
    words = str(tmp_path / "adapter"), "trained token 257, its tokenizer has 257", "tokenizer.json"
    assert_refused(lambda: plan(tmp_path / "adapter"), *words)
    tokenizer = transformers.GPT2TokenizerFast.from_pretrained(base)
    tokenizer.add_tokens(["<|user|>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "adapter")
    assert len(plan(tmp_path / "adapter").tokenizer) == 258


@pytest.mark.parametrize("labels", [None, ["bad", "fair", "good"]])
def test_a_classifiers_adapter_becomes_a_classifier(base, ids, rng, tmp_path, labels):
    model = GPT2ForSequenceClassification.from_pretrained(base, ["a", "b", "c"])
    adapt(model, base, tmp_path / "adapter", rng, task_type="SEQ_CLS", modules_to_save=["score"])
    write(plan(tmp_path / "adapter", labels=labels), tmp_path / "merged")
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(torch_logits(merged, ids), our_logits(model, ids), rtol=0, atol=LOGITS)
    assert merged.config.id2label == dict(enumerate(labels or ["LABEL_0", "LABEL_1", "LABEL_2"]))
    assert merged.config.pad_token_id is not None
    for wrong in (["yes", "no"], ["a", "a", "b"], ["a", "", "b"]):
        assert_refused(lambda names=wrong: plan(tmp_path / "adapter", labels=names), "--labels", "3 classes")


def test_a_base_that_is_a_classifier_keeps_its_names(base, ids, rng, tmp_path):
    GPT2ForSequenceClassification.from_pretrained(base, ["no", "yes"]).save_pretrained(tmp_path / "classifier")
    tiny.save_tokenizer(tmp_path / "classifier")
    model = GPT2ForSequenceClassification.from_pretrained(tmp_path / "classifier")
    adapt(model, tmp_path / "classifier", tmp_path / "adapter", rng, task_type="SEQ_CLS")
    write(plan(tmp_path / "adapter"), tmp_path / "merged")
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(torch_logits(merged, ids), our_logits(model, ids), rtol=0, atol=LOGITS)
    assert merged.config.id2label == {0: "no", 1: "yes"}


def test_the_base_is_the_one_that_is_given_else_the_one_that_is_named(base, rng, tmp_path):
    adapt(GPT2LMHeadModel.from_pretrained(base), base, tmp_path / "adapter", rng)
    assert plan(tmp_path / "adapter").directory == base
    edit(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "absent"))
    assert plan(tmp_path / "adapter", str(base)).directory == base
    assert_refused(lambda: plan(tmp_path / "adapter"), str(tmp_path / "absent"), "--model")
    edit(tmp_path / "adapter", base_model_name_or_path=None)
    assert_refused(lambda: plan(tmp_path / "adapter"), "does not name", "--model")
    assert_refused(lambda: plan(tmp_path / "adapter", str(base), ["a"]), "--labels", "language model")


def test_inspect_tells_settings_sizes_and_norms_without_jittor(base, rng, tmp_path):
    model = adapt(GPT2LMHeadModel.from_pretrained(base), base, tmp_path / "adapter", rng, use_rslora=True)
    script = (
        "import sys; sys.argv = ['lora', 'inspect', '--json', '--adapter', sys.argv[1]]\n"
        "from lora.__main__ import main; main(); assert 'jittor' not in sys.modules"
    )
    result = command("-c", script, tmp_path / "adapter")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["r"], summary["lora_alpha"], summary["task_type"]) == (3, 7, "CAUSAL_LM")
    assert summary["scaling"] == pytest.approx(7 / 3**0.5)
    assert summary["parameters"] == lora.count(model)[0]
    assert summary["bytes"] == (tmp_path / "adapter/adapter_model.safetensors").stat().st_size
    expected = [f"transformer.h.{layer}.{name}" for layer in (0, 1) for name in ("attn.c_attn", "mlp.c_proj")]
    assert [row["path"] for row in summary["projections"]] == expected
    before = {name: value.numpy().copy() for name, value in model.named_parameters()}
    lora.merge(model)
    for row in summary["projections"]:
        weight = before[f"{row['path']}.weight"]
        change = np.linalg.norm(model.parameter(f"{row['path']}.weight").numpy() - weight)
        # the reference is the difference of float32 weights
        assert row["change"] == pytest.approx(change, rel=1e-4)
        assert row["relative"] == pytest.approx(change / np.linalg.norm(weight), rel=1e-4)
        assert row["A"] == pytest.approx(np.linalg.norm(before[f"{row['path']}.lora_A.weight"]), rel=1e-6)
        assert row["B"] == pytest.approx(np.linalg.norm(before[f"{row['path']}.lora_B.weight"]), rel=1e-6)


def test_inspect_draws_a_table(base, rng, tmp_path):
    adapt(GPT2LMHeadModel.from_pretrained(base), base, tmp_path / "adapter", rng, trainable_token_indices=[3, 5])
    lines = inspection.describe(inspection.inspect(tmp_path / "adapter", base)).splitlines()
    assert "trained tokens    3, 5" in lines and "scaling           2.33333" in lines
    assert lines[-5].split() == ["projection", "‖A‖", "‖B‖", "‖ΔW‖", "‖W‖", "‖ΔW‖/‖W‖"]
    assert [line.split()[0] for line in lines[-2:]] == ["transformer.h.1.attn.c_attn", "transformer.h.1.mlp.c_proj"]
    assert "‖W‖" not in inspection.describe(inspection.inspect(tmp_path / "adapter"))
    other = tiny.model_folder(tmp_path / "other", seed=1, n_embd=24)
    assert_refused(lambda: inspection.inspect(tmp_path / "adapter", other), str(other), "c_attn.weight [36, 108]")


def test_inspect_lists_whole_tensors_even_without_the_base(base, rng, tmp_path, monkeypatch, capsys):
    model = GPT2ForSequenceClassification.from_pretrained(base, ["a", "b", "c"])
    settings = {"task_type": "SEQ_CLS", "modules_to_save": ["ln_f"], "bias": "lora_only"}
    adapt(model, base, tmp_path / "adapter", rng, **settings)
    edit(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "absent"))
    run_lora(monkeypatch, "inspect", "--adapter", tmp_path / "adapter", "--json")
    printed = capsys.readouterr()
    (note,) = printed.err.splitlines()
    assert note.startswith("note: without the base's norms: ") and str(tmp_path / "absent") in note
    summary = json.loads(printed.out)
    projections = [f"h.{layer}.{name}.base_layer" for layer in (0, 1) for name in ("attn.c_attn", "mlp.c_proj")]
    expected = ["score.weight", *(f"transformer.{name}.bias" for name in projections)]
    expected += ["transformer.ln_f.bias", "transformer.ln_f.weight"]
    assert [whole["path"] for whole in summary["whole_tensors"]] == expected
    lines = inspection.describe(summary).splitlines()
    for whole in summary["whole_tensors"]:
        value = model.parameter(whole["path"].replace(".base_layer", "")).numpy()
        assert whole["shape"] == list(value.shape) and whole["norm"] == pytest.approx(np.linalg.norm(value), rel=1e-6)
        assert f"whole tensor      {whole['path']} {whole['shape']}, norm {whole['norm']:.4g}" in lines
    stored = sum(np.prod(whole["shape"]) for whole in summary["whole_tensors"])
    assert summary["parameters"] == stored + 2 * 3 * ((36 + 108) + (58 + 36))


def test_the_product_is_measured_without_being_formed(rng):
    a, b = rng.standard_normal((4, 31), dtype=np.float32), rng.standard_normal((17, 4), dtype=np.float32)
    assert inspection.product_norm(a, b) == pytest.approx(np.linalg.norm(b.astype(float) @ a), rel=1e-9)
    assert inspection.product_norm(a, 0 * b) == 0


def test_combine_writes_an_adapter_for_peft(base, ids, rng, tmp_path):
    for name, settings in (("a", {}), ("b", {"r": 5, "target_modules": ["c_fc"]})):
        adapt(GPT2LMHeadModel.from_pretrained(base), base, tmp_path / name, rng, **settings)
    options = ["--adapter", tmp_path / "a", tmp_path / "b", "--weights", 0.7, -0.3, "--output", tmp_path / "both"]
    result = command("-m", "lora", "combine", *options)
    assert result.returncode == 0, result.stderr
    assert "rank 8" in result.stdout
    adapters = lora.Adapters(GPT2LMHeadModel.from_pretrained(base))
    for name in ("a", "b"):
        adapters.load(tmp_path / name, name)
    adapters.use({"a": 0.7, "b": -0.3})
    plain = transformers.GPT2LMHeadModel.from_pretrained(base)
    reference = peft.PeftModel.from_pretrained(plain, tmp_path / "both")
    np.testing.assert_allclose(torch_logits(reference, ids), our_logits(adapters.model, ids), rtol=0, atol=LOGITS)


def test_a_sum_says_what_its_runs_agree_on(base, rng, tmp_path, monkeypatch):
    told = {"task": "emotion", "model": str(base), "max_length": 50, "added_tokens": None, "output_dir": "runs/x"}
    for name, more in (("a", {"seed": 1}), ("b", {"seed": 2, "epochs": 3}), ("other", {"task": "rte"}), ("bare", {})):
        adapt(GPT2LMHeadModel.from_pretrained(base), base, tmp_path / name, rng)
        if name != "bare":
            (tmp_path / name / "arguments.yaml").write_text(yaml.safe_dump(told | more))
    for second, expected in (("b", told), ("other", None), ("bare", None)):
        folders = [tmp_path / "a", tmp_path / second]
        output = tmp_path / f"a and {second}"
        run_lora(monkeypatch, "combine", "--adapter", *folders, "--weights", 1, 2, "--output", output)
        assert run_arguments(output) == {k: v for k, v in (expected or {}).items() if k != "output_dir"}
        assert (output / "arguments.yaml").exists() == bool(expected)


def test_mistakes_are_told_in_one_line(base, rng, tmp_path, monkeypatch):
    a, b, new = tmp_path / "a", tmp_path / "b", tmp_path / "new"
    adapt(GPT2LMHeadModel.from_pretrained(base), base, a, rng)
    adapt(GPT2LMHeadModel.from_pretrained(base), base, b, rng, bias="all")
    for arguments, words in (
        ([], ["merge | inspect | combine"]),
        (["merge", "--adapter", a], ["--output"]),
        (["merge", "--adapter", base, "--output", new], [str(base), "no adapter"]),
        (["merge", "--adapter", a, "--output", base / "config.json"], ["is a file"]),
        (["inspect", "--adapter", tmp_path / "absent"], ["absent", "no adapter"]),
        (["combine", "--adapter", a, b, "--weights", 1, "--output", new], ["--weights", "2 adapters"]),
        (["combine", "--adapter", a, a, "--weights", 1, 1, "--output", new], ["twice"]),
        (["combine", "--adapter", a, b, "--weights", 1, 1, "--output", new], [str(b), "biases (all)"]),
        (["combine", "--adapter", a, "--weights", "nan", "--output", new], ["nan"]),
    ):
        assert_refused(lambda given=arguments: run_lora(monkeypatch, *given), *words)
    assert not new.exists()
    result = command("-m", "lora", "inspect", "--adapter", tmp_path / "absent")
    assert_one_line_error(result, "absent")


def test_the_packages_names_are_functions_however_its_files_were_imported():
    script = "import lora, lora.attach; from lora import inject; assert inject is lora.inject and callable(inject)"
    assert command("-c", script).returncode == 0
    with pytest.raises(AttributeError):
        lora.nothing  # noqa: B018


def test_a_runs_damaged_arguments_are_told_before_anything_is_written(base, rng, tmp_path, monkeypatch, capsys):
    for name in ("a", "b"):
        adapt(GPT2LMHeadModel.from_pretrained(base), base, tmp_path / name, rng)
    (tmp_path / "b" / "arguments.yaml").write_text("task: 3\n")
    combine = ("combine", "--adapter", tmp_path / "a", tmp_path / "b", "--weights", 1, 2, "--output", tmp_path / "out")
    assert_refused(lambda: run_lora(monkeypatch, *combine), str(tmp_path / "b" / "arguments.yaml"), "task must be str")
    assert not (tmp_path / "out").exists()
    run_lora(monkeypatch, "inspect", "--adapter", tmp_path / "b", "--model", base, "--json")
    assert "relative" in json.loads(capsys.readouterr().out)["projections"][0]
