"""LoRA on a classifier (task_type SEQ_CLS) against PEFT: the head is trained and saved whole beside the factors."""

import json

import numpy as np
import peft
import pytest
import tiny
import torch
import transformers
from adapters import assert_refused, edit, our_name, train_at_random
from references import GRADIENT, LOGITS

import lora
from gpt2_jittor import GPT2ForSequenceClassification, GPT2LMHeadModel
from gpt2_jittor.runtime.backend import jt

LABELS = ("bad", "fair", "good")
PAD = 300  # no content: transformers finds a row's last token by the pads' id
SETTINGS = {"r": 3, "lora_alpha": 7, "target_modules": ["c_attn", "c_fc"], "task_type": "SEQ_CLS"}

# with and without the head's name: PEFT adds it, and "classifier" besides
every_way = pytest.mark.parametrize("saved", [["score"], None, ["ln_f"]], ids=str)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("base"), seed=1)


@pytest.fixture
def batch(rng):
    """Ids and mask [rows, time] padded on the right, and a class for each row."""
    lengths = np.array([17, 5, 11])
    mask = (np.arange(17) < lengths[:, None]).astype(np.int64)
    ids = np.where(mask == 1, rng.integers(0, PAD, mask.shape), PAD)
    return ids, mask, rng.integers(0, len(LABELS), len(lengths))


def plain_torch(base, seed: int = 8):
    torch.manual_seed(seed)
    return transformers.GPT2ForSequenceClassification.from_pretrained(
        base, num_labels=len(LABELS), pad_token_id=PAD
    ).eval()


def peft_model(base, seed: int, saved):
    """PEFT's model, everything trained moved at random."""
    saved = list(saved) if saved else None  # PEFT extends the list that it is given
    config = peft.LoraConfig(fan_in_fan_out=True, modules_to_save=saved, **SETTINGS)
    model = peft.get_peft_model(plain_torch(base), config)
    torch.manual_seed(seed)
    return tiny.moved(model)


def our_model(base, rng, saved):
    """Ours, everything trained moved at random."""
    model = GPT2ForSequenceClassification.from_pretrained(base, LABELS)
    lora.inject(model, lora.LoraConfig(modules_to_save=saved, **SETTINGS))
    return train_at_random(model, rng)


def torch_logits(model, ids, mask):
    return model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits


@every_way
def test_what_is_trained_is_what_peft_trains(base, seed, rng, saved):
    reference, model = peft_model(base, seed, saved), our_model(base, rng, saved)
    expected = {our_name(name) for name, parameter in reference.named_parameters() if parameter.requires_grad}
    assert {name for name, _ in lora.trainable(model)} == expected
    assert lora.count(model)[0] == reference.get_nb_trainable_parameters()[0]


@every_way
def test_an_adapter_from_peft_gives_pefts_logits(base, seed, batch, saved, tmp_path):
    ids, mask, _ = batch
    reference = peft_model(base, seed, saved)
    reference.save_pretrained(tmp_path)
    assert "classifier" in json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"]
    model = GPT2ForSequenceClassification.from_pretrained(base, LABELS)
    lora.load_adapter(model, tmp_path)
    expected = torch_logits(reference, ids, mask).detach().numpy()
    np.testing.assert_allclose(model(ids, mask).numpy(), expected, rtol=0, atol=LOGITS)


@every_way
def test_our_adapter_gives_our_logits_in_peft(base, rng, batch, saved, tmp_path):
    ids, mask, _ = batch
    model = our_model(base, rng, saved)
    lora.save_adapter(model, tmp_path)
    reference = peft.PeftModel.from_pretrained(plain_torch(base), tmp_path).eval()  # whose own head is another
    expected = torch_logits(reference, ids, mask).detach().numpy()
    np.testing.assert_allclose(model(ids, mask).numpy(), expected, rtol=0, atol=LOGITS)


def test_an_adapter_goes_through_its_files_bit_for_bit(base, rng, tmp_path):
    model = our_model(base, rng, ["score"])
    lora.save_adapter(model, tmp_path)
    again = GPT2ForSequenceClassification.from_pretrained(base, LABELS, seed=9)
    lora.load_adapter(again, tmp_path, trained=True)
    found = dict(lora.trainable(again))
    assert "score.weight" in found and found.keys() == dict(lora.trainable(model)).keys()
    for name, parameter in lora.trainable(model):
        np.testing.assert_array_equal(found[name].numpy(), parameter.numpy(), err_msg=name)


@every_way
def test_each_gradient_is_pefts(base, seed, rng, batch, saved):
    ids, mask, classes = batch
    reference, model = peft_model(base, seed, saved), our_model(base, rng, saved)
    for name, parameter in reference.named_parameters():
        if parameter.requires_grad:
            model.parameter(our_name(name)).assign(parameter.detach().numpy())
    torch.nn.functional.cross_entropy(torch_logits(reference, ids, mask), torch.tensor(classes)).backward()
    expected = {our_name(n): p.grad.numpy() for n, p in reference.named_parameters() if p.requires_grad}
    names, parameters = zip(*lora.trainable(model), strict=True)
    gradients = jt.grad(model.loss(ids, classes, mask), list(parameters))
    assert set(names) == expected.keys()
    for name, gradient in zip(names, gradients, strict=True):
        difference = np.linalg.norm(gradient.numpy() - expected[name])
        assert difference <= GRADIENT * np.linalg.norm(expected[name]), name


def test_a_merged_classifier_is_saved_for_transformers_with_its_logits(base, rng, batch, tmp_path):
    ids, mask, _ = batch
    model = our_model(base, rng, ["score"])
    expected = model(ids, mask).numpy()
    lora.merge(model)
    model.save_pretrained(tmp_path)
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, pad_token_id=PAD).eval()
    np.testing.assert_allclose(torch_logits(reference, ids, mask).detach().numpy(), expected, rtol=0, atol=LOGITS)
    assert reference.config.id2label == dict(enumerate(LABELS))


def test_a_classifiers_adapter_is_refused_by_a_language_model_and_by_other_classes(base, rng, tmp_path):
    lora.save_adapter(our_model(base, rng, ["score"]), tmp_path)
    assert_refused(lambda: lora.load_adapter(GPT2LMHeadModel.from_pretrained(base), tmp_path), "SEQ_CLS", "classifier")
    two = GPT2ForSequenceClassification.from_pretrained(base, ["no", "yes"])
    assert_refused(lambda: lora.load_adapter(two, tmp_path), str(tmp_path), "score.weight [3, 36] instead of [2, 36]")
    three = GPT2ForSequenceClassification.from_pretrained(base, LABELS)
    edit(tmp_path, modules_to_save=["score", "ln_f"])
    assert_refused(lambda: lora.load_adapter(three, tmp_path), "2 missing", "ln_f.weight")
    edit(tmp_path, modules_to_save=["score", "lm_head"])  # which a classifier does not have: as in PEFT, it matters not
    assert lora.load_adapter(three, tmp_path).modules_to_save == ["score", "lm_head"]
