"""The classifier against transformers' GPT2ForSequenceClassification: logits, gradients, files in both directions."""

import json

import numpy as np
import pytest
import tiny
import torch
import transformers
from references import GRADIENT, LOGITS

from common.errors import UserError
from gpt2_jittor import GPT2ForSequenceClassification
from gpt2_jittor.runtime.backend import jt

LABELS = ("bad", "fair", "good")
PAD = 300  # no content: transformers finds a row's last token by the pads' id
sides = pytest.mark.parametrize("side", ["left", "right"])


def classifier_folder(folder, seed: int, **settings):
    """A random classifier in transformers' own files; returns the folder and the model."""
    tiny.classifier_folder(folder, seed, LABELS, pad_token_id=PAD, **settings)
    return folder, transformers.GPT2ForSequenceClassification.from_pretrained(folder).eval()


def batch(rng, side: str, lengths=(17, 5, 11, 1)):
    """Ids, mask and positions [rows, time] padded on one side, and a class for each row."""
    ids = rng.integers(0, PAD, (len(lengths), max(lengths)))
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    if side == "left":
        mask = mask[:, ::-1].copy()
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    return np.where(mask == 1, ids, PAD), mask, positions, rng.integers(0, len(LABELS), len(lengths))


def torch_logits(model, ids, mask, positions):
    """transformers' logits. It takes positions from the mask in generation alone: here they are told."""
    arguments = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return model(**{name: torch.tensor(value) for name, value in arguments.items()}).logits


@sides
def test_logits_are_those_of_transformers(tmp_path, seed, rng, side):
    folder, reference = classifier_folder(tmp_path, seed)
    model = GPT2ForSequenceClassification.from_pretrained(folder)
    ids, mask, positions, _ = batch(rng, side)
    expected = torch_logits(reference, ids, mask, positions).detach().numpy()
    assert model.config.labels == LABELS
    np.testing.assert_allclose(model(ids, mask).numpy(), expected, rtol=0, atol=LOGITS)


def test_padding_changes_no_logit(tmp_path, seed, rng):
    model = GPT2ForSequenceClassification.from_pretrained(classifier_folder(tmp_path, seed)[0])
    ids, mask, _, _ = batch(rng, "right")
    alone = np.concatenate([model(row[None, shown == 1]).numpy() for row, shown in zip(ids, mask, strict=True)])
    np.testing.assert_allclose(model(ids, mask).numpy(), alone, rtol=0, atol=LOGITS)


@sides
def test_each_gradient_is_that_of_transformers(tmp_path, seed, rng, side):
    folder, reference = classifier_folder(tmp_path, seed, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = GPT2ForSequenceClassification.from_pretrained(folder)
    ids, mask, positions, classes = batch(rng, side)
    loss = torch.nn.functional.cross_entropy(torch_logits(reference, ids, mask, positions), torch.tensor(classes))
    loss.backward()
    expected = {name: parameter.grad.numpy() for name, parameter in reference.named_parameters()}
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = model.loss(ids, classes, mask)
    gradients = jt.grad(found, list(parameters))
    assert found.item() == pytest.approx(loss.item(), abs=LOGITS)
    assert set(names) == expected.keys()
    for name, gradient in zip(names, gradients, strict=True):
        difference = np.linalg.norm(gradient.numpy() - expected[name])
        assert difference <= GRADIENT * np.linalg.norm(expected[name]), name


def test_classes_are_smoothed_in_training_alone(tmp_path, seed, rng):
    folder, reference = classifier_folder(tmp_path, seed, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = GPT2ForSequenceClassification.from_pretrained(folder)
    model.label_smoothing = 0.2
    ids, mask, positions, classes = batch(rng, "right")
    logits, targets = torch_logits(reference, ids, mask, positions), torch.tensor(classes)
    for prepare, smoothing in ((model.train, 0.2), (model.eval, 0.0)):
        expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
        assert prepare().loss(ids, classes, mask).item() == pytest.approx(expected.item(), abs=LOGITS)


def test_what_is_saved_loads_in_transformers_with_equal_logits_and_the_classes_names(tmp_path, seed, rng):
    model = GPT2ForSequenceClassification.from_pretrained(classifier_folder(tmp_path / "a", seed)[0])
    model.save_pretrained(tmp_path / "b")
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "b").eval()
    ids, mask, positions, _ = batch(rng, "right")
    expected = torch_logits(reference, ids, mask, positions).detach().numpy()
    assert type(reference) is transformers.GPT2ForSequenceClassification
    assert reference.config.id2label == dict(enumerate(LABELS))
    np.testing.assert_allclose(model(ids, mask).numpy(), expected, rtol=0, atol=LOGITS)


def test_a_language_model_gets_a_new_head_from_the_seed(tmp_path, seed):
    base = tiny.model_folder(tmp_path, seed)
    first, again, other = (GPT2ForSequenceClassification.from_pretrained(base, LABELS, seed=s) for s in (4, 4, 5))
    scores = [model.score.weight.numpy() for model in (first, again, other)]
    assert scores[0].shape == (len(LABELS), tiny.SIZES["n_embd"])
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[0] != scores[2]).all()
    np.testing.assert_array_equal(
        first.transformer.wte.weight.numpy(), tiny.hf_model(seed).transformer.wte.weight.detach().numpy()
    )


def test_labels_that_are_missing_or_others_are_refused(tmp_path, seed):
    with pytest.raises(UserError, match="names no classes"):
        GPT2ForSequenceClassification.from_pretrained(tiny.model_folder(tmp_path / "language", seed))
    folder, _ = classifier_folder(tmp_path / "classifier", seed)
    with pytest.raises(UserError, match="tells bad, fair, good apart, not yes, no"):
        GPT2ForSequenceClassification.from_pretrained(folder, ["yes", "no"])
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"id2label": {"1": "a"}})
    )
    with pytest.raises(UserError, match="id2label"):
        GPT2ForSequenceClassification.from_pretrained(folder)


def test_a_row_without_a_token_and_a_class_that_is_none_are_refused(tmp_path, seed):
    model = GPT2ForSequenceClassification.from_pretrained(tiny.model_folder(tmp_path, seed), LABELS)
    with pytest.raises(ValueError, match="no token"):
        model([[1, 2], [3, 4]], [[1, 1], [0, 0]])
    with pytest.raises(ValueError, match="classes hold 0 to 3"):
        model.loss([[1, 2], [3, 4]], [0, 3])
