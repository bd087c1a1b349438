"""A base's fingerprint: the same for its copies, however they are kept, and never for what computes other numbers."""

import dataclasses
import json
import shutil

import pytest
import tiny
import torch
import transformers
from copies import COPIES, OTHER_VALUES, folder_of, padded

from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.checkpoint.fingerprint import COMPUTED, SAME_ACTIVATION, Base, digest, disagreement
from gpt2_jittor.checkpoint.stored import EMBEDDING, HEAD, SCORE, open_model

STEP = 5e-5  # AdamW's first step is the learning rate: that of full tuning
LARGE_STEP = 0.01  # more than bfloat16 rounds of a number below 2.5
CHANGES_NOTHING = {"initializer_range", "reorder_and_upcast_attn", "bos_token_id", "eos_token_id", "pad_token_id"}
IN_TENSORS = {"vocab_size", "tie_word_embeddings", "labels"}  # and in their shapes


def base_of(folder) -> Base:
    return Base(open_model(folder))


@pytest.fixture
def model(seed):
    """A random model: its tensors and its configuration."""
    theirs = tiny.hf_model(seed)
    state = {name: value.detach().clone() for name, value in theirs.state_dict().items() if name != HEAD}
    return state, theirs.config.to_dict()


@pytest.mark.parametrize("form", ["one file", "several files", "torch", "torch, the body alone"])
def test_the_files_form_changes_nothing(tmp_path, seed, form):
    theirs = tiny.hf_model(seed)
    theirs.save_pretrained(tmp_path / "one")
    if form.startswith("torch"):
        shutil.copytree(tmp_path / "one", tmp_path / "other")
        (tmp_path / "other" / "model.safetensors").unlink()
        part = theirs.transformer if form.endswith("alone") else theirs
        torch.save(part.state_dict(), tmp_path / "other" / "pytorch_model.bin")
    else:
        theirs.save_pretrained(tmp_path / "other", max_shard_size="30KB" if form == "several files" else "1GB")
    one, other = open_model(tmp_path / "one"), open_model(tmp_path / "other")
    assert Base(one).fingerprint == Base(other).fingerprint and digest(one) == digest(other)


@pytest.mark.parametrize("first", COPIES)
def test_a_copy_is_the_same_base_both_ways(tmp_path, model, first):
    state, config = model
    copy = base_of(folder_of(tmp_path / "copy", COPIES[first](state), config))
    seconds = {"float32", "bfloat16", "padded, in float16"}
    seconds -= {"padded, in float16"} if "padded" in first else set()  # what the padding is nobody knows
    seconds -= {"bfloat16"} if first.endswith("then bfloat16") else set()  # of one type they must be the same
    for second in seconds:
        other = base_of(folder_of(tmp_path / "other", COPIES[second](state), config))
        assert other.difference(copy.fingerprint) is None, second
        assert copy.difference(other.fingerprint) is None, second
        assert disagreement(copy.fingerprint, other.fingerprint) is None, second


@pytest.mark.parametrize("how", COPIES)
def test_a_step_of_training_makes_another_base(tmp_path, model, how, rng):
    """Whatever tensor was trained, of whatever copy: all its numbers, by what an optimiser's first step is."""
    state, config = model
    base = base_of(folder_of(tmp_path / "base", state, config))
    for name in rng.choice(list(state), 5, replace=False):
        tensor = state[name]
        step = STEP if tensor.ndim == 2 else LARGE_STEP  # a vector need not have a number so small
        signs = torch.tensor(rng.choice([-1.0, 1.0], tensor.shape), dtype=torch.float32)
        trained = COPIES[how](state | {name: tensor + step * signs})
        other = base_of(folder_of(tmp_path / "other", trained, config))
        assert name in base_words(other, base), name
        assert name in base_words(base, other), name


def test_norms_that_begin_as_ones_are_not_taken_for_rounded_ones(tmp_path, model):
    state, config = model
    fresh = {n: (torch.ones if ".ln_" in n else torch.zeros)(v.shape) if v.ndim == 1 else v for n, v in state.items()}
    base = base_of(folder_of(tmp_path / "base", fresh, config))
    name = "transformer.ln_f.weight"
    other = base_of(folder_of(tmp_path / "other", fresh | {name: fresh[name] + STEP}, config))
    assert name in base_words(other, base) and name in base_words(base, other)


def base_words(found: Base, of: Base) -> str:
    return found.difference(of.fingerprint) or ""


@pytest.mark.parametrize("pad", [0, 64])
def test_a_single_number_makes_another_base_of_the_same_precision(tmp_path, model, rng, pad):
    state, config = model
    base = base_of(folder_of(tmp_path / "base", state, config))
    for name in rng.choice(list(state), 5, replace=False):
        tensor = state[name]
        changed = tensor.clone().reshape(-1)
        changed[rng.integers(len(changed))] *= 1.001
        other = state | {name: changed.reshape(tensor.shape)}
        found = base_of(folder_of(tmp_path / "other", padded(other, pad) if pad else other, config))
        assert f"1 of {len(state)} tensors hold other numbers ({name})" == base_words(found, base)


@pytest.mark.parametrize("how", ["float32", "bfloat16", "padded"])
def test_another_head_makes_another_base_for_all_but_classifiers(tmp_path, model, how):
    state, config = model
    tied = base_of(folder_of(tmp_path / "tied", state, config))
    heads = [state | {HEAD: state[EMBEDDING] + scale * torch.randn_like(state[EMBEDDING])} for scale in (1, 0.1)]
    first, second = (
        base_of(folder_of(tmp_path / str(number), COPIES[how](head), config)) for number, head in enumerate(heads)
    )
    for found, of in ((first, tied), (tied, first), (first, second)):
        assert f"({HEAD})" in base_words(found, of)
        assert found.difference(of.fingerprint, classifies=True) is None
    # without the tensors at hand there may be no number that both fingerprints have
    assert how == "padded" or f"({HEAD})" in disagreement(first.fingerprint, tied.fingerprint)
    assert first.difference(first.fingerprint) is None


def test_a_classifiers_head_and_its_classes_count_where_both_have_them(tmp_path, model):
    state, config = model
    score = torch.randn(3, tiny.SIZES["n_embd"])
    config = config | {"id2label": {"0": "a", "1": "b", "2": "c"}}
    language = base_of(folder_of(tmp_path / "language", state, config))
    base = base_of(folder_of(tmp_path / "base", state | {SCORE: score}, config))
    other = base_of(folder_of(tmp_path / "other", state | {SCORE: score + STEP}, config))
    named = base_of(
        folder_of(tmp_path / "named", state | {SCORE: score}, config | {"id2label": {0: "b", 1: "a", 2: "c"}})
    )
    assert SCORE in base_words(other, base) and "labels" in base_words(named, base)
    assert len({each.fingerprint for each in (language, base, other, named)}) == 4
    assert language.difference(base.fingerprint) is None and base.difference(language.fingerprint) is None


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_another_configuration_makes_another_base(tmp_path, model, name):
    state, config = model
    base = base_of(folder_of(tmp_path / "base", state, config))
    other = base_of(folder_of(tmp_path / "other", state, config | {name: OTHER_VALUES[name]}))
    assert base_words(other, base).startswith(f"its configuration differs: {name} ")
    assert digest(open_model(base.directory)) != digest(open_model(other.directory))
    assert name in disagreement(base.fingerprint, other.fingerprint)


def test_more_positions_or_blocks_make_another_base(tmp_path, model):
    state, config = model
    base = base_of(folder_of(tmp_path / "base", state, config))
    positions = state["transformer.wpe.weight"][:-1]
    fewer = folder_of(
        tmp_path / "positions", state | {"transformer.wpe.weight": positions}, config | {"n_positions": 100}
    )
    one = {name: value for name, value in state.items() if ".h.1." not in name}
    blocks = folder_of(tmp_path / "blocks", one, config | {"n_layer": 1})
    assert "n_positions 100 instead of 101" in base_words(base_of(fewer), base)
    assert "n_layer 1 instead of 2" in base_words(base_of(blocks), base)


def test_every_entry_of_a_configuration_is_compared_or_changes_nothing():
    fields = {field.name for field in dataclasses.fields(GPT2Config)}
    assert fields - {"n_inner"} == (set(COMPUTED) - {"mlp_size"}) | CHANGES_NOTHING | IN_TENSORS


def test_names_of_one_activation_are_one():
    from gpt2_jittor.ops.activation import ACTIVATIONS

    for name, function in ACTIVATIONS.items():
        same = {other for other, each in ACTIVATIONS.items() if each is function}
        assert {SAME_ACTIVATION.get(other, other) for other in same} == {SAME_ACTIVATION.get(name, name)}
        assert SAME_ACTIVATION.get(name, name) in same


def test_adapters_of_the_first_form_are_compared_as_they_were(tmp_path):
    """The value is that of the code that wrote it."""
    nano = open_model("checkpoints/gpt2-nano")
    written = NANO_FIRST_FORM
    assert Base(nano).difference(written) is None
    assert Base(nano).difference(written[::-1]) == "its weights differ"
    tiny.hf_model(1).save_pretrained(tmp_path)
    assert base_of(tmp_path).difference(written) == "its weights differ"
    assert disagreement(written, written[::-1]) and disagreement(written, Base(nano).fingerprint) is None


NANO_FIRST_FORM = "4f287ebc1c15400b87774e4743360cc002db09e21560d968b0d154c4bd13859e"


def test_a_fingerprint_is_short(tmp_path):
    sizes = {"n_layer": 12, "n_embd": 8, "n_head": 2, "n_inner": None}  # as many tensors as GPT-2 small
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**(tiny.SIZES | sizes))).save_pretrained(tmp_path)
    assert len(base_of(tmp_path).fingerprint) < 10_000


def test_what_strangers_write_there_is_refused_in_words(tmp_path, model, rng):
    base = base_of(folder_of(tmp_path, *model))
    content = json.loads(base.fingerprint)

    def with_config(**values):
        return json.dumps(content | {"config": content["config"] | values})

    absurd = ["", "{", "[]", "3", "[" * 100_000, "x" * 64, json.dumps(content | {"version": 3}), "{}", '"a"', "null"]
    absurd += [with_config(n_layer=value) for value in (10**9, 10**40, -1, 0, 1.5, "2", None, [2])]
    absurd += [with_config(vocab_size=value) for value in (None, "3", 1e300)]
    absurd += [json.dumps(content | {"heads": heads}) for heads in ([HEAD], ["x"], 3, None, [[1]], [HEAD, HEAD])]
    absurd += [json.dumps(content | {"tensors": text}) for text in ("", "AAAA", 3, "!", content["tensors"][:-8])]
    absurd += [with_config(activation_function="\n\x1b[31m" * 99), with_config(vocab_size=-5)]
    for _ in range(60):
        text = list(base.fingerprint)
        text[rng.integers(len(text))] = chr(rng.integers(32, 127))
        absurd.append("".join(text))
    for text in absurd:
        for words in (base.difference(text), disagreement(text, base.fingerprint)):
            assert words is None or (0 < len(words) < 2000 and "\n" not in words), text[:99]
    assert all(base.difference(text) for text in absurd[:-60])


def test_an_exact_comparison_is_not_made_of_samples(tmp_path, model):
    """Two models in 16 bits that differ by the last bit of one number are two."""
    state, config = model
    half = COPIES["bfloat16"](state)
    base = base_of(folder_of(tmp_path / "base", half, config))
    table = half[EMBEDDING].clone()
    table.view(torch.int16)[7, 7] += 1
    other = base_of(folder_of(tmp_path / "other", half | {EMBEDDING: table}, config))
    assert EMBEDDING in base_words(other, base)
