"""A model measured on a task: figures with their 95 % intervals, and what it said."""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from common.errors import UserError
from datasets.encode import IGNORED, EncodedSet
from datasets.example import Dataset, Example
from datasets.task import Task
from evaluation import metrics
from evaluation.descriptions import statistics_of
from generation.engine import Engine, Prompt
from generation.scoring import Losses, losses


@dataclass(frozen=True)
class Figure:
    """A measured value and the interval that holds it in 95 % of resamples of the examples."""

    value: float
    low: float
    high: float


@dataclass
class Measured:
    """Figures by name, and what was said: of each of `examples` a class or a text, the `gold` classes beside them.

    `examples` are those that were asked: for classes, all but those that were dropped when they were encoded.
    """

    figures: dict[str, Figure] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    predictions: list = field(default_factory=list)
    gold: list[int] = field(default_factory=list)
    unasked: int = 0  # prompts that are too long: their answer counts as empty
    notes: list[str] = field(default_factory=list)  # on the figures


def measure(engine: Engine, dataset: Dataset, data: EncodedSet, batch_size: int, generates: bool = True) -> Measured:
    """Loss and perplexity of `data`, which `dataset` was encoded to, and what else the task is measured by.

    Where the engine `generates`, it answers every example, as its options say; else that is left out.
    """
    result, task = Measured(), engine.task
    each = losses(engine.model, data, batch_size, engine.tokenizer.pad_token_id)
    result.figures |= loss_figures(each)
    if not task.kind.generates:
        result.examples = [dataset.examples[index] for index in data.kept]
        result.gold = [item.label for item in data.items]
        result.predictions = each.logits.argmax(axis=1).tolist()
        result.figures |= class_figures(result.gold, result.predictions, len(task.labels))
    elif task.kind.answer_tokens and generates and (asked := _asked(task, dataset)):
        result.examples = asked
        prompts = {index: prompt for index, e in enumerate(asked) if (prompt := _encoded(engine, e.given))}
        result.unasked = len(asked) - len(prompts)
        result.predictions = [""] * len(asked)
        for index, found in zip(prompts, engine.answers(list(prompts.values()), progress=True), strict=True):
            result.predictions[index] = found[0].text
        figures, result.notes = text_figures(task, asked, result.predictions)
        result.figures |= figures
    return result


def _asked(task: Task, dataset: Dataset) -> list[Example]:
    """The examples that have a prompt; the first with each, where examples are texts of one meaning."""
    examples = [example for example in dataset.examples if example.opening]
    if task.kind.judged_by != "descriptions":
        return examples
    first: dict = {}
    for example in examples:
        first.setdefault(example.opening, example)
    return list(first.values())


def loss_figures(each: Losses) -> dict[str, Figure]:
    """The mean loss over all that is scored, in nats, and its exponential."""
    low, high = _interval(len(each.sums), metrics.ratio_of(each.sums, each.counts))
    mean = float(each.sums.sum() / each.counts.sum())
    perplexities = (math.exp(min(loss, 700.0)) for loss in (mean, low, high))
    return {"loss": Figure(mean, low, high), "perplexity": Figure(*perplexities)}


def class_figures(gold: list[int], predicted: list[int], classes: int) -> dict[str, Figure]:
    """Accuracy and macro F1, in percent."""
    right, guessed = np.array(gold), np.array(predicted)

    def accuracy(indexes: np.ndarray) -> float:
        """Percent, of the examples at these indexes."""
        return 100 * metrics.accuracy(right[indexes], guessed[indexes])

    def macro_f1(indexes: np.ndarray) -> float:
        """Percent, of the examples at these indexes."""
        return 100 * metrics.macro_f1(right[indexes], guessed[indexes], classes)

    return {"accuracy": _resampled(len(gold), accuracy), "macro_f1": _resampled(len(gold), macro_f1)}


def text_figures(task: Task, examples: list[Example], predictions: list[str]) -> tuple[dict[str, Figure], list[str]]:
    """Exact match and F1 of answers, in percent; the E2E challenge's measures of descriptions; BLEU and the diversity
    of replies. And notes on them.
    """
    if task.kind.judged_by == "descriptions":
        measures, missing = statistics_of(predictions, [example.references for example in examples])
        figures = {name: _resampled(len(predictions), statistic) for name, statistic in measures.items()}
        how = f"bleu to cider: e2e-metrics' figures of {len(predictions):,} meanings, in percent but for nist and cider"
        return figures, [how, missing] if missing else [how]
    if task.kind.judged_by == "answers":
        pairs = [(prediction, e.references) for prediction, e in zip(predictions, examples, strict=True)]
        each = {"exact_match": [100 * metrics.exact_match(*pair) for pair in pairs]}
        each["f1"] = [100 * metrics.f1(*pair) for pair in pairs]
        return {name: _resampled(len(values), metrics.mean_of(values)) for name, values in each.items()}, []
    figures = {"bleu": _resampled(len(predictions), metrics.bleu_of(predictions, [_said(e) for e in examples]))}
    for n in (1, 2):
        interval = metrics.distinct_interval(predictions, n)
        figures[f"distinct_{n}"] = Figure(metrics.distinct(predictions, n), *interval)
    return figures, [f"bleu: {metrics.bleu_signature()}"]


def trivial(task: Task, dataset: Dataset, data: EncodedSet) -> tuple[str, dict[str, Figure]]:
    """What it takes no model to reach, and how: the best constant guess on these very examples."""
    if not task.kind.generates:
        gold = [item.label for item in data.items]
        ((most, _),) = Counter(gold).most_common(1)
        return f"always {task.labels[most]}", class_figures(gold, [most] * len(gold), len(task.labels))
    figures, how = _unigram(data), "each token by its frequency here"
    if task.kind.judged_by != "answers":
        return how, figures
    contexts = [next(segment.text for segment in e.segments if segment.cut) for e in dataset.examples]
    answered, _ = text_figures(task, dataset.examples, contexts)
    return f"{how}; answering with the whole context", figures | answered


def _unigram(data: EncodedSet) -> dict[str, Figure]:
    """The loss of a model that knows how often each scored token occurs in these examples, and nothing else."""
    scored = [item.labels[1:][item.labels[1:] != IGNORED] for item in data.items]
    tokens, counts = np.unique(np.concatenate(scored), return_counts=True)
    nats = -np.log(counts / counts.sum())
    sums = np.array([nats[np.searchsorted(tokens, ids)].sum() for ids in scored])
    return loss_figures(Losses(sums, np.array([len(ids) for ids in scored])))


def _said(example: Example) -> str:
    """The answer that the example gives: its last scored segment."""
    return next(segment.text for segment in reversed(example.segments) if segment.scored).strip()


def _resampled(count: int, statistic: metrics.Statistic) -> Figure:
    return Figure(statistic(np.arange(count)), *_interval(count, statistic))


def _interval(count: int, statistic: metrics.Statistic) -> tuple[float, float]:
    """The interval of a statistic; not a number where one example says nothing of how examples vary."""
    return metrics.bootstrap(count, statistic) if count > 1 else (math.nan, math.nan)


def _encoded(engine: Engine, given: Example) -> Prompt | None:
    """None for a prompt that is too long."""
    try:
        return engine.encode(given)
    except UserError:
        return None
