"""What the language model and the classifier share: reading and writing checkpoints, hidden states, modes."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.checkpoint.fingerprint import Base
from gpt2_jittor.checkpoint.initial import initial_head, initial_weights, with_rows
from gpt2_jittor.checkpoint.locate import locate
from gpt2_jittor.checkpoint.stored import StoredModel, open_model
from gpt2_jittor.checkpoint.weights import check, read_views, shapes_of
from gpt2_jittor.checkpoint.write import write_model
from gpt2_jittor.model import frozen
from gpt2_jittor.model.cache import KVCache
from gpt2_jittor.model.ids import check_ids, on_host
from gpt2_jittor.model.layers import GPT2Model, Layer
from gpt2_jittor.ops.matmul import products_in, to_half
from gpt2_jittor.runtime.backend import jt
from gpt2_jittor.runtime.precision import DEFAULT_THRESHOLD, PRECISIONS

BASE_LAYER = "base_layer"  # where a layer of an adapter's holds the one that it wraps, as in PEFT


def plain_name(place: str) -> str:
    """The name of what stands at this dotted place among a model's modules: in a checkpoint nothing is wrapped."""
    return ".".join(part for part in place.split(".") if part != BASE_LAYER)


def in_own_precision(method: Callable) -> Callable:
    """A model's method whose products are made in the model's precision."""

    @functools.wraps(method)
    def within(self, *arguments, **named):
        """The method itself, with its products in `self.precision`."""
        with products_in(self.precision):
            return method(self, *arguments, **named)

    return within


class GPT2PreTrained(jt.nn.Module):
    """A GPT-2 body, `transformer`, under the head that a subclass adds.

    A new one has random weights; `from_pretrained` reads a checkpoint. It starts in evaluation mode, without dropout.
    """

    base: Base | None = None  # the checkpoint that was read
    generation: dict[str, Any] | None = None  # what its folder says of generation, for a folder made of this model
    unused: tuple[str, ...] = ()  # tensors of a checkpoint that this kind of model has no use for
    precision = "fp32"  # of its products: `to_precision`
    base_precision = "fp32"  # of what is kept of its weights: `from_stored`
    int8_threshold: float | None = None  # of int8's outliers
    label_smoothing = 0.0  # of its loss in training: `ops/head_loss.py`
    adapter_tables: tuple[str, ...] = ()  # whole embeddings that its adapter brought, by their names
    adapter_config: Any = None  # of the adapter that its layers belong to, while there is one: `lora/attach.py`

    def __init__(self, config: GPT2Config, seed: int = 0):
        self._build(config)
        for name, array in initial_weights(config, seed):
            self.parameter(name).assign(array)
        for name, shape in self.head_shapes().items():
            self.parameter(name).assign(initial_head(config, shape[0], seed))

    def _build(self, config: GPT2Config) -> None:
        self.config = config
        self.transformer = GPT2Model(config)
        self._add_head()
        self.eval()

    def _add_head(self) -> None:
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, name_or_directory: str | Path, *head: Any, **named: Any) -> "GPT2PreTrained":
        """Reads a folder in Hugging Face's layout, or a model of the hub by its name.

        What follows is for the head; a language model's needs nothing, a classifier's `labels` and `seed`.
        Raises UserError where there is none, or where its tensors are not exactly the configuration's.
        """
        return cls.from_stored(open_model(locate(str(name_or_directory))), *head, **named)

    @classmethod
    def from_stored(
        cls,
        stored: StoredModel,
        *head: Any,
        base: str = "fp32",
        int8_threshold: float = DEFAULT_THRESHOLD,
        weights: str = "fp32",
        vocabulary: int | None = None,
        through: Callable = lambda model, tensors: tensors,
        **named: Any,
    ) -> "GPT2PreTrained":
        """Builds the model of an opened checkpoint and reads it; `head` and errors as of `from_pretrained`.

        base: "int8", "bf16" or "fp16" for a base that is not trained itself, kept in so many bits (`model/frozen.py`).
        weights: "int8" or "bf16" for one that is only used (`model/quantized.py`). Either is never all float32 numbers.
        vocabulary: with how many entries, as of `resize_token_embeddings`, which such a model cannot have later.
        through: what makes of the checkpoint's tensors those that are put in, given the empty model.
        """
        config, new = cls._head_of(stored, *head, **named)
        model = cls.__new__(cls)
        model._build(config)
        shapes = {name: shape for name, shape in model.shapes().items() if name not in new}
        tensors = {name: view for name, view in stored.tensors.items() if name not in cls.unused}
        check(shapes, shapes_of(tensors), stored.directory)
        arrays = itertools.chain(new.items(), read_views(tensors, stored.directory))
        frozen.assign_all(model, through(model, arrays), base, int8_threshold, weights, vocabulary)
        model.base = Base(stored)
        model.generation = stored.generation.values
        return model

    @classmethod
    def _head_of(cls, stored: StoredModel) -> tuple[GPT2Config, dict[str, np.ndarray]]:
        """The configuration with this kind of head, and the head's parameters where the checkpoint has none."""
        return stored.config, {}

    def state_dict(self, to: str | None = None, recurse: bool = True) -> dict:
        """Every parameter by its name, as Jittor's own method, and `named_parameters` with it. A name does not change
        when an adapter wraps the layer: `transformer.h.0.attn.c_attn.weight`, where a checkpoint has it."""
        return {plain_name(place): value for place, value in super().state_dict(to, recurse).items()}

    def places(self) -> dict[str, str]:
        """Every parameter's dotted place among the modules, `….c_attn.base_layer.weight`, by its name."""
        return {plain_name(place): place for place in super().state_dict()}

    def layers(self) -> dict[str, Layer]:
        """Every layer by its dotted path. A layer of an adapter's stands for the one that it wraps."""
        layers: dict[str, Layer] = {}
        for place, module in self.named_modules():
            if isinstance(module, Layer):
                layers.setdefault(plain_name(place), module)  # what wraps comes before what it wraps
        return layers

    def adapter_parameters(self) -> dict:
        """What an adapter adds beside the weights: Vars by their names."""
        layers = self.layers().items()
        return {f"{path}.{name}": var for path, layer in layers for name, var in layer.adapter_parameters().items()}

    @property
    def is_plain(self) -> bool:
        """Whether the weights are all that it computes with: no adapter, or a merged one."""
        return all(layer.is_plain for layer in self.layers().values())

    @property
    def quantized(self) -> str:
        """What its weights have become (`model/quantized.py`), "" where they are as they were read."""
        return next((layer.quantized for layer in self.layers().values() if layer.quantized), "")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """By name, of every parameter."""
        return {name: tuple(value.shape) for name, value in self.named_parameters()}

    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters that are the head's own: none where it is the token embedding."""
        return {name: shape for name, shape in self.shapes().items() if not name.startswith("transformer.")}

    def save_pretrained(self, directory: str | Path, dtype: str = "float32") -> None:
        """Writes a folder that transformers loads, with the same logits. `dtype`: float32 or float16.

        Raises UserError where an adapter is not merged yet, and for weights in 8 or 16 bits.
        """
        if not self.is_plain:
            raise UserError("the adapter is not part of the weights yet: merge it first, or save the adapter")
        self.check_full("save the model")
        config, tensors = self.stored()
        write_model(directory, config, tensors, dtype, type(self).__name__, self.generation)

    def stored(self) -> tuple[GPT2Config, dict[str, np.ndarray]]:
        """The configuration and the tensors of a plain checkpoint."""
        added = self.adapter_parameters()
        return self.config, {name: value.numpy() for name, value in self.named_parameters() if name not in added}

    @in_own_precision
    def hidden(self, input_ids, attention_mask=None, cache: KVCache | None = None):
        """The final hidden states, float32 [batch, time, width], of ids [batch, time] (array, list or Var).

        `attention_mask` [batch, time]: 0 marks pads, on either side; positions count real tokens only.
        With a `cache`, the ids continue what it holds, and it takes them up.
        Raises ValueError for ids outside the vocabulary and for more tokens than there are positions.
        """
        ids = on_host(input_ids)
        check_ids(ids, self.config.vocab_size, "input_ids")
        ids = ids.astype(np.int32)
        mask = np.ones_like(ids) if attention_mask is None else (on_host(attention_mask) != 0).astype(np.int32)
        if mask.shape != ids.shape:
            raise ValueError(f"attention_mask is {list(mask.shape)}, input_ids {list(ids.shape)}")
        if cache is not None:
            mask = cache.extend_mask(mask)  # [batch, all], the cache's tokens before the new ones
        count = np.cumsum(mask, axis=1, dtype=np.int32)  # real tokens so far, in each row
        if count.size and count[:, -1].max() > self.config.n_positions:
            raise ValueError(f"{count[:, -1].max()} tokens do not fit {self.config.n_positions} positions")
        position_ids = np.maximum(count - 1, 0)[:, -ids.shape[1] :]  # [batch, time], of the new ids alone
        return self.transformer(jt.array(ids), jt.array(mask), jt.array(position_ids), cache)

    def resize_token_embeddings(self, rows: int) -> None:
        """Gives the vocabulary `rows` entries; each new one starts as the mean of those that were there.

        Raises ValueError where there are more already or the model has an adapter, UserError for 8 or 16 bits.
        """
        self.check_full("resize the vocabulary")
        if self.adapter_parameters():
            raise ValueError("the model has an adapter: resize the vocabulary before that")
        more = rows - self.config.vocab_size
        if more < 0:
            raise ValueError(f"the vocabulary has {self.config.vocab_size} entries already, more than {rows}")
        tables = [self.transformer.wte]
        if not self.config.tie_word_embeddings and hasattr(self, "lm_head"):
            tables.append(self.lm_head)
        for table in tables if more else ():
            table.weight = jt.array(with_rows(table.weight.numpy(), rows))
        self.config = dataclasses.replace(self.config, vocab_size=rows)

    def freeze(self) -> "GPT2PreTrained":
        """Nothing is trained from now on."""
        for parameter in self.parameters():
            parameter.stop_grad()
        return self

    def to_precision(self, precision: str) -> "GPT2PreTrained":
        """Makes the model's products in "fp16" or "bf16" from now on (`ops/matmul.py`); "fp32": as they are.

        What is frozen of it by now and no vector is kept in that type, in half the memory, for good: such weights can
        be neither merged nor saved. What is trained, and an adapter's own parameters, stay float32.
        Raises UserError for a weight that float16 cannot hold, ValueError for another change of precision.
        """
        changes = precision != "fp32" and self.base_precision != "fp32"
        if precision not in PRECISIONS or self.precision not in ("fp32", precision) or changes:
            raise ValueError(f"no change from {self.precision} to {precision}; there are {', '.join(PRECISIONS)}")
        self.precision, added = precision, self.adapter_parameters()
        for name, value in self.named_parameters() if precision != "fp32" else ():
            if value.ndim < 2 or name in added or not value.is_stop_grad() or value.dtype != "float32":
                continue
            array = value.numpy()
            frozen.check_range(name, array, precision)
            value.assign(to_half(array, precision))
            value.stop_grad()
            value.sync()  # one tensor's float32 numbers at a time
        jt.gc()
        return self

    def check_full(self, doing: str, names: Collection[str] | None = None) -> None:
        """Raises UserError where a parameter, of those called `names`, has 16 bits and `doing` needs 32 ("merge it").

        Without `names` also where a layer has become int8 or bf16.
        """
        if names is None and self.quantized:
            raise UserError(f"the weights have become {self.quantized}, which is for use only: {doing} before that")
        if names is None and self.base_precision != "fp32":
            raise UserError(f"the base is kept in {self.base_precision}: to {doing}, load the model in float32")
        chosen = [value for name, value in self.named_parameters() if names is None or name in names]
        if any(value.dtype in ("float16", "bfloat16") for value in chosen):
            raise UserError(f"the model's weights are kept in {self.precision} now: {doing} before that")

    def parameter(self, name: str):
        """The parameter at a dotted path."""
        value = self
        for part in name.split("."):
            value = value[int(part)] if part.isdigit() else getattr(value, part)
        return value

    @property
    def smoothing(self) -> float:
        """`label_smoothing` in training; 0 in evaluation, where a loss is that of what is there."""
        return self.label_smoothing if self.is_training() else 0.0

    # Jittor's own train() and eval() start and stop gradients, and so unfreeze what was frozen in between.
    def train(self):
        """Dropout on. Which parameters are trained does not change."""
        return self._set_training(True)

    def eval(self):
        """Dropout off. Which parameters are trained does not change."""
        return self._set_training(False)

    def _set_training(self, training: bool):
        for module in self.modules():
            module.is_train = training
        return self


@contextlib.contextmanager
def evaluating(model: GPT2PreTrained) -> Iterator[None]:
    """Dropout is off within; then the model is in the mode in which it was."""
    training = model.is_training()
    model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
