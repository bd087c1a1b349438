"""An operator's value and gradients beside torch's in float64."""

import numpy as np
import torch

from gpt2_jittor.runtime.backend import jt

# float32 rounds at 6e-8; sums of some hundred terms, in an order that -Ofast chooses, lose two digits more
TOLERANCE = 1e-5


def normal(rng, *shape, scale=1.0):
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def ours(function, inputs, dy):
    """A Jittor function's value and its gradients by the inputs, given the gradient by its value."""
    variables = [jt.array(x) for x in inputs]
    y = function(*variables)
    gradients = jt.grad((y * jt.array(dy)).sum(), variables)
    return [y.numpy(), *(g.numpy() for g in gradients)]


def torchs(function, inputs, dy):
    """The same of a torch function, in float64."""
    variables = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in inputs]
    y = function(*variables)
    return [y.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(y, variables, torch.tensor(dy).double()))]


def assert_close(found, expected, tolerance=TOLERANCE):
    """Each array within `tolerance` of its expected one, relative to that one's largest element or to 1."""
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.shape == b.shape
        error = np.abs(a - b).max() / max(1, np.abs(b).max())
        assert error <= tolerance, f"array {number}: error {error:.1e} above {tolerance:.1e}"  # NaN fails, too
