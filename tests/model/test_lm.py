"""The model against transformers' GPT2LMHeadModel: logits, loss, every gradient, the cache, greedy text, files."""

import tempfile

import numpy as np
import pytest
import tiny
import torch
import transformers
from references import GRADIENT, LOGITS, pair

from generation.decoding import stream
from generation.sampling import make_sampler
from gpt2_jittor.checkpoint.config import ACTIVATIONS, GPT2Config
from gpt2_jittor.checkpoint.initial import initial_weights
from gpt2_jittor.model.cache import KVCache
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.ops import fused
from gpt2_jittor.runtime.backend import jt

LOSS = 1e-5  # relative

VOCAB, POSITIONS = tiny.SIZES["vocab_size"], tiny.SIZES["n_positions"]


def make_batch(rng, padding="none", batch=3, time=23):
    """Ids, mask and labels; about a third of the labels are not scored, nor are pads and what follows one."""
    ids = rng.integers(0, VOCAB, (batch, time))
    mask = np.ones_like(ids)
    for row in range(1, batch):
        pads = int(rng.integers(1, time // 2))
        if padding == "left":
            mask[row, :pads] = 0
        elif padding == "right":
            mask[row, -pads:] = 0
    after_pad = np.pad(mask[:, :-1], ((0, 0), (1, 0)), constant_values=1) == 0
    labels = np.where((mask == 0) | after_pad | (rng.random(ids.shape) < 0.3), -100, ids)
    return ids, mask, labels


def torch_logits(model, ids, mask):
    positions = np.maximum(mask.cumsum(1) - 1, 0)  # transformers wants to be told that pads have no position
    ids, mask, positions = (torch.tensor(x) for x in (ids, mask, positions))
    return model(ids, attention_mask=mask, position_ids=positions).logits


def assert_same_logits(theirs, ours, ids, mask):
    with torch.no_grad():
        expected = torch_logits(theirs, ids, mask).numpy()
    found = ours(ids, mask).numpy()
    assert found.shape == expected.shape
    real = mask == 1  # what is computed at a pad means nothing
    assert np.abs(found - expected)[real].max() <= LOGITS


def assert_same_training_step(theirs, ours, ids, mask, labels):
    logits = torch_logits(theirs, ids, mask)
    targets = torch.tensor(labels)
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
    expected.backward()
    loss = ours.loss(ids, labels, mask)
    parameters = dict(ours.named_parameters())
    gradients = dict(zip(parameters, jt.grad(loss, list(parameters.values())), strict=True))
    assert loss.item() == pytest.approx(expected.item(), rel=LOSS)
    references = dict(theirs.named_parameters())
    assert gradients.keys() == references.keys()
    for name, reference in references.items():
        reference = reference.grad.numpy()
        error = np.linalg.norm(gradients[name].numpy() - reference) / np.linalg.norm(reference)
        assert error <= GRADIENT, f"{name}: {error:.1e}"


# --- logits, loss and gradients


@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_logits_loss_and_gradients_are_transformers_with_padding_on_either_side(tmp_path, seed, rng, padding):
    theirs, ours = pair(tmp_path, seed)
    ids, mask, labels = make_batch(rng, padding)
    assert_same_logits(theirs, ours, ids, mask)
    assert_same_training_step(theirs, ours, ids, mask, labels)


def test_the_composed_operators_give_the_same_model(tmp_path, seed, rng):
    theirs, ours = pair(tmp_path, seed)
    ids, mask, labels = make_batch(rng, "left")
    with fused.composed_only():
        assert_same_logits(theirs, ours, ids, mask)
        assert_same_training_step(theirs, ours, ids, mask, labels)


def test_labels_are_smoothed_in_training_alone(tmp_path, seed, rng):
    theirs, ours = pair(tmp_path, seed)
    ids, mask, labels = make_batch(rng)
    logits, targets = torch_logits(theirs, ids, mask)[:, :-1].flatten(0, 1), torch.tensor(labels)[:, 1:].flatten()
    ours.label_smoothing = 0.2
    for prepare, smoothing in ((ours.train, 0.2), (ours.eval, 0.0)):
        expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
        assert prepare().loss(ids, labels, mask).item() == pytest.approx(expected.item(), rel=LOSS)


@pytest.mark.parametrize(
    "settings",
    [
        {"layer_norm_epsilon": 0.3},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
        {"activation_function": "relu"},
    ],
    ids=str,
)
def test_a_setting_that_changes_the_computation_changes_it_as_in_transformers(tmp_path, seed, rng, settings):
    theirs, ours = pair(tmp_path, seed, **settings)
    ids, mask, labels = make_batch(rng)
    plain = tiny.hf_model(seed, attn_implementation="eager")  # the same weights
    with torch.no_grad():
        assert (torch_logits(plain, ids, mask) - torch_logits(theirs, ids, mask)).abs().max() > 100 * LOGITS
    assert_same_logits(theirs, ours, ids, mask)
    assert_same_training_step(theirs, ours, ids, mask, labels)


@pytest.mark.parametrize("settings", [{"n_inner": None}, {"n_inner": 37}, {"tie_word_embeddings": False}], ids=str)
def test_a_setting_that_changes_the_parameters_changes_them_as_in_transformers(tmp_path, seed, rng, settings):
    theirs, ours = pair(tmp_path, seed, **settings)
    ids, mask, labels = make_batch(rng)
    assert_same_logits(theirs, ours, ids, mask)
    assert_same_training_step(theirs, ours, ids, mask, labels)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_logits_are_transformers_with_every_activation(tmp_path, seed, rng, name):
    theirs, ours = pair(tmp_path, seed, activation_function=name)
    assert_same_logits(theirs, ours, *make_batch(rng)[:2])


def test_at_gpt2_smalls_size_and_full_length_logits_are_transformers(seed, rng):
    torch.manual_seed(seed)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    with torch.no_grad():
        theirs.transformer.wte.weight *= 3  # logits as wide as a trained model's
    with tempfile.TemporaryDirectory() as folder:  # half a gigabyte, which pytest would keep
        theirs.save_pretrained(folder)
        ours = GPT2LMHeadModel.from_pretrained(folder)
    ids = rng.integers(0, 50257, (1, 1024))
    assert_same_logits(theirs, ours, ids, np.ones_like(ids))
    del theirs, ours
    jt.gc()


# --- modes and errors


def test_dropout_acts_in_training_mode_only(tmp_path, seed, rng):
    for place in ("embd_pdrop", "attn_pdrop", "resid_pdrop"):
        _, model = pair(tmp_path, seed, **{place: 0.5})
        ids, _, _ = make_batch(rng)
        before = model(ids).numpy()
        model.train()
        assert np.abs(model(ids).numpy() - before).max() > 100 * LOGITS, place
        model.eval()
        np.testing.assert_array_equal(model(ids).numpy(), before, err_msg=place)


def test_changing_the_mode_neither_freezes_nor_unfreezes_a_parameter(tmp_path, seed):
    _, model = pair(tmp_path, seed)
    frozen = {"transformer.wte.weight", "transformer.h.1.attn.c_attn.bias"}
    model.eval()
    for name in frozen:
        model.parameter(name).stop_grad()
    for change in (model.train, model.eval, model.train):
        change()
        assert {name for name, value in model.named_parameters() if value.is_stop_grad()} == frozen


@pytest.fixture(scope="module")
def model():
    return GPT2LMHeadModel(GPT2Config(**tiny.SIZES))


@pytest.mark.parametrize("labels", [[-100, -100, -100], [5, -100, -100]])
def test_a_batch_in_which_nothing_is_scored_has_no_loss(model, labels):
    with pytest.raises(ValueError, match="no label is scored"):
        model.losses([[1, 2, 3]], [labels])


@pytest.mark.parametrize("wrong", [-1, VOCAB, 2**32 + 1])
def test_ids_outside_the_vocabulary_are_refused(model, wrong):
    with pytest.raises(ValueError, match="vocabulary"):
        model([[1, wrong, 2]])
    with pytest.raises(ValueError, match="vocabulary"):
        model.loss([[1, 2, 3]], [[1, wrong, 2]])


def test_more_tokens_than_positions_are_refused_with_a_cache_and_without(model):
    with pytest.raises(ValueError, match="positions"):
        model(np.zeros((1, POSITIONS + 1), int))
    cache = KVCache()
    model(np.zeros((1, POSITIONS), int), cache=cache)
    with pytest.raises(ValueError, match="positions"):
        model([[0]], cache=cache)


@pytest.mark.parametrize("shape", [(1, 4), (2, 3)])
def test_a_mask_or_labels_of_another_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match="attention_mask"):
        model([[1, 2, 3]], np.ones(shape, int))
    with pytest.raises(ValueError, match="labels"):
        model.loss([[1, 2, 3]], np.ones(shape, int))


# --- cache and generation


@pytest.mark.parametrize("padding", ["none", "left"])
def test_feeding_tokens_in_pieces_through_a_cache_equals_one_pass(tmp_path, seed, rng, padding):
    theirs, ours = pair(tmp_path, seed)
    ids, mask, _ = make_batch(rng, padding)
    with torch.no_grad():
        expected = torch_logits(theirs, ids, mask).numpy()
    cache, pieces, start = KVCache(), [], 0
    for length in (13, 1, 1, 5, 3):
        part = slice(start, start + length)
        pieces.append(ours(ids[:, part], mask[:, part], cache).numpy())
        start += length
        assert cache.length == start
    assert np.abs(np.concatenate(pieces, axis=1) - expected)[mask == 1].max() <= LOGITS


def test_greedy_text_is_transformers_up_to_the_end_token(tmp_path, seed, rng):
    theirs, ours = pair(tmp_path, seed)
    sampler = make_sampler(greedy=True)
    for length in (1, 4, 19):
        prompt = rng.integers(0, VOCAB, length).tolist()

        def generate(end_id, prompt=prompt):
            settings = {"do_sample": False, "max_new_tokens": 15, "eos_token_id": end_id, "pad_token_id": 0}
            ids = torch.tensor([prompt])
            return theirs.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, len(prompt) :].tolist()

        expected = generate(None)
        assert list(stream(ours, prompt, sampler, 15, None)) == expected
        end = expected[5]
        assert [*stream(ours, prompt, sampler, 15, end), end] == generate(end)


def test_generation_ends_at_the_last_position(model):
    assert len(list(stream(model, [1, 2, 3], make_sampler(greedy=True), 10**6, None))) == POSITIONS - 3


# --- files, names, new weights


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_what_we_save_and_computes_the_same(tmp_path, seed, rng, tied):
    theirs, ours = pair(tmp_path / "theirs", seed, tie_word_embeddings=tied)
    ours.save_pretrained(tmp_path / "full")
    ours.save_pretrained(tmp_path / "half", dtype="float16")
    ids = torch.tensor(make_batch(rng)[0])
    for folder in ("full", "half"):
        reference = theirs if folder == "full" else theirs.half().float()
        settings = {"dtype": torch.float32, "attn_implementation": "eager"}
        loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / folder, **settings).eval()
        with torch.no_grad():  # not a bit is lost, but what float16 cannot hold
            np.testing.assert_array_equal(loaded(ids).logits, reference(ids).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_have_transformers_names(tied):
    settings = tiny.SIZES | {"tie_word_embeddings": tied}
    names = set(transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings)).state_dict())
    ours = {name for name, _ in GPT2LMHeadModel(GPT2Config(**settings)).named_parameters()}
    assert ours == (names - {"lm_head.weight"} if tied else names)


def test_new_weights_are_spread_like_transformers_new_weights(seed):
    settings = tiny.SIZES | {"n_embd": 48, "n_layer": 3, "tie_word_embeddings": False}
    torch.manual_seed(seed)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings))
    ours = dict(GPT2LMHeadModel(GPT2Config(**settings), seed).named_parameters())
    for name, reference in theirs.named_parameters():
        # both are samples of n numbers: a deviation is known to 1 part in √(2n), their ratio to 1 in √n
        assert ours[name].numpy().std() == pytest.approx(
            reference.std(correction=0).item(), rel=6 / reference.numel() ** 0.5
        ), name
        assert ours[name].numpy().mean() == pytest.approx(reference.mean().item(), abs=1e-2), name


def test_new_weights_depend_on_the_seed_alone():
    config = GPT2Config(**tiny.SIZES)
    first, again, other = (dict(initial_weights(config, seed)) for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)
