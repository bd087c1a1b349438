"""Losses and classes of single examples against transformers, which reads each of them alone and without a pad."""

import numpy as np
import pytest
import tiny
import torch
import transformers
from references import example_logits, example_losses

from datasets import tasks
from datasets.encode import IGNORED, Encoded, EncodedSet
from datasets.example import Example, Segment
from generation.engine import Engine
from generation.options import GenerationOptions
from generation.scoring import class_shares, cross_entropy, evaluate, losses
from gpt2_jittor import GPT2ForSequenceClassification, GPT2LMHeadModel
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

FLOAT32 = {"rtol": 1e-5, "atol": 1e-4}  # the contract's tolerance for logits, of which these are a few
PAD = 256
EMOTION = tasks.find("emotion")


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("talker"), seed=1, dropout=0.4)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    drops = {"resid_pdrop": 0.4, "embd_pdrop": 0.4, "attn_pdrop": 0.4}
    return tiny.classifier_folder(tmp_path_factory.mktemp("classifier"), 2, EMOTION.labels, **drops)


def random_items(rng, count: int, classes: int = 0) -> list[Encoded]:
    """Examples of uneven lengths, about two thirds of their tokens scored, the last one always."""
    items = []
    for length in rng.integers(1 if classes else 2, 40, count):
        ids = rng.integers(0, 256, length).astype(np.int32)
        labels = np.where((rng.random(length) < 0.7) | (np.arange(length) == length - 1), ids, IGNORED)
        items.append(Encoded(ids, ids, int(rng.integers(classes))) if classes else Encoded(ids, labels))
    return items


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_each_examples_loss_is_what_it_has_alone_in_the_datas_order(talker, rng, batch_size):
    data = EncodedSet(random_items(rng, 9))
    found = losses(GPT2LMHeadModel.from_pretrained(talker), data, batch_size, PAD)
    expected = [example_losses(talker, item) for item in data.items]
    np.testing.assert_array_equal(found.counts, [len(each) for each in expected])
    np.testing.assert_allclose(found.sums, [each.sum() for each in expected], **FLOAT32)
    assert found.sums.dtype == np.float64 and found.logits is None


def test_the_score_is_the_mean_over_all_scored_tokens(talker, rng):
    data = EncodedSet(random_items(rng, 7))
    score = evaluate(GPT2LMHeadModel.from_pretrained(talker), data, 3, PAD)
    expected = np.concatenate([example_losses(talker, item) for item in data.items])
    assert (score.tokens, score.accuracy) == (len(expected), None) and score.tokens == data.scored
    assert score.loss == pytest.approx(expected.mean(), rel=1e-5)
    assert score.perplexity == pytest.approx(np.exp(expected.mean()), rel=1e-4)
    assert str(score) == f"loss {score.loss:.4f}, perplexity {score.perplexity:.2f}"


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_a_classifiers_scores_and_losses_are_those_of_each_text_alone(classifier, rng, batch_size):
    data = EncodedSet(random_items(rng, 9, classes=6))
    found = losses(GPT2ForSequenceClassification.from_pretrained(classifier), data, batch_size, PAD)
    logits = torch.stack(
        [example_logits(transformers.GPT2ForSequenceClassification, classifier, item.input_ids) for item in data.items]
    )
    gold = torch.tensor([item.label for item in data.items])
    np.testing.assert_allclose(found.logits, logits, **FLOAT32)
    each = torch.nn.functional.cross_entropy(logits, gold, reduction="none")
    np.testing.assert_allclose(found.sums, each, **FLOAT32)
    score = found.score(data)
    assert (score.tokens, found.counts.tolist()) == (9, [1] * 9)
    assert score.accuracy == pytest.approx(float((logits.argmax(1) == gold).double().mean()), abs=1e-12)
    assert str(score) == f"loss {score.loss:.4f}, accuracy {score.accuracy:.1%}"


def test_cross_entropy_is_worked_by_hand_and_bears_large_scores():
    found = cross_entropy(np.array([[0.0, np.log(3)], [1e4, 0.0]], np.float32), np.array([1, 1]))
    np.testing.assert_allclose(found, [-np.log(3 / 4), 1e4], rtol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_models_mode_is_put_back(talker, classifier, rng, training):
    for kind, folder, classes in ((GPT2LMHeadModel, talker, 0), (GPT2ForSequenceClassification, classifier, 6)):
        data, model = EncodedSet(random_items(rng, 4, classes)), kind.from_pretrained(folder)
        expected = losses(model, data, 2, PAD).sums
        model._set_training(training)
        np.testing.assert_array_equal(losses(model, data, 2, PAD).sums, expected)
        if classes:
            ids = np.array([data[0].input_ids])
            np.testing.assert_array_equal(*(class_shares(model, ids) for _ in range(2)))
        assert model.is_training() == training


def test_the_models_mode_is_put_back_after_an_error(talker):
    model = GPT2LMHeadModel.from_pretrained(talker).train()
    foreign = np.array([1, 999], np.int32)  # the vocabulary has 301 entries
    with pytest.raises(ValueError, match="999"):
        losses(model, EncodedSet([Encoded(foreign, foreign)]), 1, PAD)
    assert model.is_training()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_probabilities_are_the_softmax_of_each_text_alone_the_likeliest_first(classifier, rng, batch_size):
    texts = [" ".join(rng.choice(tiny.WORDS, rng.integers(1, 9))) for _ in range(7)] + ["x", "é" * 9, "y" * 300]
    tokenizer = load_tokenizer(classifier)
    model = GPT2ForSequenceClassification.from_pretrained(classifier)
    found = Engine(model, tokenizer, EMOTION, GenerationOptions(batch_size=batch_size)).classify(texts)
    for text, shares in zip(texts, found, strict=True):
        ids = tokenizer(text)["input_ids"][:101]  # a text that is longer than the model loses its end
        logits = example_logits(transformers.GPT2ForSequenceClassification, classifier, ids)
        expected = dict(zip(EMOTION.labels, logits.softmax(0).tolist(), strict=True))
        assert shares == pytest.approx(expected, abs=1e-4)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        assert sum(shares.values()) == pytest.approx(1, abs=1e-12)


def test_two_sentences_are_classified_with_the_end_token_between_them(tmp_path, rng):
    task = tasks.find("rte")
    folder = tiny.classifier_folder(tmp_path, 3, task.labels)
    example = Example((Segment("a sun", scored=False), Segment("a tea", scored=False, end=False)))
    model, tokenizer = GPT2ForSequenceClassification.from_pretrained(folder), load_tokenizer(folder)
    found = Engine(model, tokenizer, task).classify([task.prompt("a sun ", " a tea"), example])
    ids = [*tokenizer("a sun")["input_ids"], 256, *tokenizer("a tea")["input_ids"]]
    expected = example_logits(transformers.GPT2ForSequenceClassification, folder, ids).softmax(0).tolist()
    for shares in found:
        assert shares == pytest.approx(dict(zip(task.labels, expected, strict=True)), abs=1e-4)
