"""Whole token tables in PEFT's files: a resized vocabulary's are kept, the base's own say nothing."""

import warnings

import numpy as np
import peft
import pytest
import safetensors.numpy
import tiny
import torch
import transformers
from adapters import assert_refused, run_lora
from references import our_logits, torch_logits

import lora
from gpt2_jittor import GPT2LMHeadModel
from lora.combination import combine
from lora.files import read_adapter

ROWS = 303
BOTH = ["lm_head", "wte"]
SETTINGS = {
    "head": {"target_modules": ["c_attn", "lm_head"]},
    "embedding": {"target_modules": ["c_attn", "wte"]},
    "both": {"target_modules": BOTH},
    "head with DoRA": {"target_modules": ["c_attn", "lm_head"], "use_dora": True},
    "embedding with DoRA": {"target_modules": ["c_attn", "wte"], "use_dora": True},
    "both with DoRA": {"target_modules": BOTH, "use_dora": True},
    "head, and embedding whole": {"target_modules": ["c_attn", "lm_head"], "modules_to_save": ["wte"]},
    "embedding, and head whole": {"target_modules": ["c_attn", "wte"], "modules_to_save": ["lm_head"]},
    "tokens": {"target_modules": ["c_attn"], "trainable_token_indices": [3, 200]},
    "projections": {"target_modules": ["c_attn"]},
}
every = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
tied_and_untied = pytest.mark.parametrize("base", [True, False], indirect=True, ids=["tied", "untied"])


@pytest.fixture
def base(request, tmp_path, seed):
    return tiny.model_folder(tmp_path / "base", seed, tie_word_embeddings=request.param)


def pefts(base, settings, rows: int | None = ROWS):
    """PEFT's adapter on the base with that many rows, everything trained and the new rows moved at random."""
    model = transformers.GPT2LMHeadModel.from_pretrained(base)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
        with torch.no_grad():
            model.transformer.wte.weight[tiny.SIZES["vocab_size"] :] += torch.randn(rows - tiny.SIZES["vocab_size"], 1)
    config = peft.LoraConfig(r=3, lora_alpha=6, fan_in_fan_out=True, task_type="CAUSAL_LM", **settings)
    model = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def begin_as_the_mean(model) -> None:
    """New rows of both tables, as ours begin: transformers draws them around the mean, off by some 1e-5."""
    first = tiny.SIZES["vocab_size"]
    with torch.no_grad():
        for table in (model.transformer.wte, model.lm_head):
            table.weight[first:] = table.weight[:first].mean(0)


@pytest.fixture
def made(base, tmp_path, rng, seed, request):
    """A function of settings: the adapter's folder, ids, and PEFT's logits when it has read that folder itself."""
    torch.manual_seed(seed)

    def make(settings, rows: int | None = ROWS, name: str = "theirs"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT says that it saves whole embeddings
            pefts(base, settings, rows).save_pretrained(tmp_path / name)
            again = transformers.GPT2LMHeadModel.from_pretrained(base)
            if rows:
                again.resize_token_embeddings(rows)
                begin_as_the_mean(again)
            again = peft.PeftModel.from_pretrained(again, tmp_path / name).eval()
        ids = rng.integers(0, rows or tiny.SIZES["vocab_size"], (2, 11))
        return tmp_path / name, ids, torch_logits(again, ids)

    return make


def plain(base, rows: int | None = ROWS):
    model = GPT2LMHeadModel.from_pretrained(base)
    if rows:
        model.resize_token_embeddings(rows)
    return model


def assert_same(found, expected, tolerance=1e-5) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


@every
@tied_and_untied
def test_a_resized_vocabularys_tables_are_read_used_and_saved_again(base, made, settings, tmp_path):
    folder, ids, expected = made(settings)
    model = plain(base)
    lora.load_adapter(model, folder, trained=True)
    assert_same(our_logits(model.eval(), ids), expected)
    lora.save_adapter(model, tmp_path / "ours")
    again = plain(base)
    lora.load_adapter(again, tmp_path / "ours")
    assert_same(our_logits(again, ids), expected)
    several, before = plain(base), our_logits(plain(base), ids)
    adapters = lora.Adapters(several)
    adapters.load(folder, "theirs")
    adapters.use("theirs")
    assert_same(our_logits(several, ids), expected)
    adapters.use(None)
    assert_same(our_logits(several, ids), before)


@every
@tied_and_untied
def test_merged_it_is_what_peft_has_read(base, made, settings, tmp_path, monkeypatch):
    folder, ids, expected = made(settings)
    run_lora(monkeypatch, "merge", "--adapter", folder, "--output", tmp_path / "merged")
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "merged").eval()
    assert_same(torch_logits(model, ids), expected)


@every
@pytest.mark.parametrize("base", [True], indirect=True)
def test_a_base_in_fewer_bits_refuses_them_however_it_is_loaded(base, made, settings):
    if "modules_to_save" in settings:
        pytest.skip("is refused for the layer that is trained whole")
    folder, *_ = made(settings)
    model = GPT2LMHeadModel.from_pretrained(base, base="int8", vocabulary=ROWS)
    assert_refused(lambda: lora.load_adapter(model, folder), "float32")
    assert_refused(lambda: lora.Adapters(model).load(folder, "theirs"), "float32")


@pytest.mark.parametrize("settings", [SETTINGS["head"], SETTINGS["embedding"], SETTINGS["both"]])
@tied_and_untied
def test_the_bases_own_tables_say_nothing(base, made, settings, tmp_path, monkeypatch):
    folder, ids, expected = made(settings, rows=None)
    assert bool(read_adapter(folder).embeddings) == ("lm_head" in settings["target_modules"]), "PEFT has written them"
    model = plain(base, None)
    lora.load_adapter(model, folder)
    assert_same(our_logits(model, ids), expected)
    assert model.adapter_tables == ()
    other, *_ = made(SETTINGS["projections"], rows=None, name="other")
    run_lora(monkeypatch, "combine", "--adapter", folder, other, "--weights", 1, 0, "--output", tmp_path / "both")
    assert not any(
        "base_layer" in key for key in safetensors.numpy.load_file(tmp_path / "both/adapter_model.safetensors")
    )
    model = plain(base, None)
    lora.load_adapter(model, tmp_path / "both")
    assert_same(our_logits(model, ids), expected)


@pytest.mark.parametrize("base", [True, False], indirect=True)
def test_adapters_of_one_resized_vocabulary_are_combined_with_it(base, made, tmp_path, monkeypatch):
    folder, ids, expected = made(SETTINGS["head"])
    run_lora(monkeypatch, "combine", "--adapter", folder, "--weights", 1, "--output", tmp_path / "sum")
    model = plain(base)
    lora.load_adapter(model, tmp_path / "sum")
    assert_same(our_logits(model, ids), expected)
    other, *_ = made(SETTINGS["head"], name="other")  # whose new rows are others
    adapters = {str(each): read_adapter(each) for each in (folder, other)}
    assert_refused(lambda: combine(adapters, dict.fromkeys(adapters, 0.5)), "embeddings of its own")


@pytest.mark.parametrize("settings", [SETTINGS["head"], SETTINGS["embedding"], SETTINGS["both"]])
@tied_and_untied
def test_inspect_finds_the_weights_of_a_resized_vocabulary(base, made, settings, monkeypatch, capsys):
    folder, *_ = made(settings)
    run_lora(monkeypatch, "inspect", "--adapter", folder)
    said = capsys.readouterr()
    assert "‖ΔW‖/‖W‖" in said.out and "note" not in said.err


@pytest.mark.parametrize("base", [True], indirect=True)
def test_pissa_beside_an_embedding_of_a_resized_vocabulary_is_converted(base, made, tmp_path, monkeypatch):
    folder, ids, expected = made(SETTINGS["embedding"] | {"init_lora_weights": "pissa"})
    run_lora(monkeypatch, "convert", "--adapter", folder, "--output", tmp_path / "plain")
    model = plain(base)
    lora.load_adapter(model, tmp_path / "plain")
    # both sides take the first singular vectors of a weight in float32, the less exact the closer the next one is
    assert_same(our_logits(model, ids), expected, 1e-4)


@pytest.mark.parametrize("base", [True], indirect=True)
def test_a_task_that_is_not_said_fits_any(base, made, tmp_path):
    folders = [made(SETTINGS["projections"], rows=None, name=name)[0] for name in ("a", "b")]
    adapters = {str(folder): read_adapter(folder) for folder in folders}
    first = adapters[str(folders[0])]
    first.config = first.config.__class__(**{**vars(first.config), "task_type": None})
    assert combine(adapters, dict.fromkeys(adapters, 0.5)).config.task_type == "CAUSAL_LM"
