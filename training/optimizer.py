"""AdamW over named parameters, and the norm of their gradients, as torch computes them.

Jittor's own AdamW counts a step at every backward pass, which is wrong under accumulation; here one `step` is
one update.
"""

import numpy as np

from gpt2_jittor.ops.adamw import adamw, sum_of_squares
from gpt2_jittor.runtime.backend import jt


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), on named parameters.

    Biases and norms do not decay; all else does, DoRA's magnitudes included, as in transformers' Trainer. All state is
    float32. What an adapter starts at zero, its B, and all vectors learn `lora_plus_ratio` times as fast as the rest:
    LoRA+ (Hayou, Ghosh and Yu 2024), in PEFT's groups.
    """

    def __init__(
        self,
        named_parameters,
        weight_decay: float = 0.0,
        betas=(0.9, 0.999),
        eps: float = 1e-8,
        lora_plus_ratio: float = 1.0,
    ):
        self.named_parameters = list(named_parameters)
        self.weight_decay, self.betas, self.eps = weight_decay, betas, eps
        self.lora_plus_ratio = lora_plus_ratio
        self.steps = 0
        self.largest_batch = 0  # ids of the largest that updates were made with
        self.first = [jt.zeros_like(p).stop_grad() for _, p in self.named_parameters]
        self.second = [jt.zeros_like(p).stop_grad() for _, p in self.named_parameters]

    @property
    def parameters(self) -> list:
        """The Vars that are trained, in the order in which `step` takes their gradients."""
        return [parameter for _, parameter in self.named_parameters]

    def step(self, gradients, learning_rate: float, scale=None) -> None:
        """One update with `gradients` times `scale`, a Var of one element (None: as they are)."""
        self.steps += 1
        scale = jt.ones((1,)) if scale is None else scale
        tensors = list(zip(self.parameters, gradients, self.first, self.second, strict=True))
        decays = [self.weight_decay if self._decays(*named) else 0.0 for named in self.named_parameters]
        factors = [self.lora_plus_ratio if self._is_fast(*named) else 1.0 for named in self.named_parameters]
        for factor in sorted(set(factors)):
            group = [number for number, of_number in enumerate(factors) if of_number == factor]
            old, given, first, second = zip(*(tensors[number] for number in group), strict=True)
            kept, rate = [decays[number] for number in group], learning_rate * factor
            new = adamw(old, given, first, second, scale, self.steps, rate, kept, self.betas, self.eps)
            for values, updated in zip((old, first, second), new, strict=True):
                for value, replacement in zip(values, updated, strict=True):
                    value.update(replacement)

    @staticmethod
    def _decays(name: str, parameter) -> bool:
        return parameter.ndim >= 2 or name.endswith("lora_magnitude_vector")

    @staticmethod
    def _is_fast(name: str, parameter) -> bool:
        return "lora_B" in name or parameter.ndim == 1

    def state(self) -> dict[str, np.ndarray]:
        """The moments as numpy arrays: `first.<parameter>` and `second.<parameter>`."""
        return {
            f"{kind}.{name}": value.numpy()
            for kind, values in (("first", self.first), ("second", self.second))
            for (name, _), value in zip(self.named_parameters, values, strict=True)
        }

    def load_state(self, arrays: dict[str, np.ndarray], steps: int) -> None:
        """Takes back what `state` gave, and the number of updates made until then."""
        self.steps = steps
        for kind, values in (("first", self.first), ("second", self.second)):
            for (name, _), value in zip(self.named_parameters, values, strict=True):
                value.assign(arrays[f"{kind}.{name}"])


def global_norm(gradients, loss_scale=None):
    """√ of the sum of all squares: a Var of one element. `loss_scale`: what the gradients are multiplied by, a Var."""
    norm = jt.sqrt(sum_of_squares(gradients))
    return norm if loss_scale is None else norm / loss_scale


def clip_factor(norm, max_norm: float, loss_scale=None):
    """What to multiply gradients by so that their norm is at most `max_norm` (torch's clip_grad_norm_); 0: any.

    `norm` and `loss_scale` as of `global_norm`: the factor divides by the scale as well. None where there is none.
    """
    factor = jt.minimum(max_norm / (norm + 1e-6), jt.array(np.ones(1, np.float32))) if max_norm else None
    if loss_scale is None:
        return factor
    return (1 if factor is None else factor) / loss_scale
