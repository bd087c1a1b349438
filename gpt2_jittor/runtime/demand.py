"""What a size that was asked for takes of memory, at the least, before anything of that size is made.

These are lower bounds, of the largest things alone: what they refuse cannot run on this machine. A GPU has its own
memory, and is not in a machine with less than that; so the machine's is the bound on every device.

`parameters` are named as in a ParameterError's template: "{batch_size} or {max_length}".
"""

from common.errors import ParameterError
from common.memory import total
from gpt2_jittor.checkpoint.config import GPT2Config

FLOAT = 4  # bytes
KEPT = 8  # widths of the model that a block keeps of each token for the backward pass: the MLP's inner layer has four
GB = 10**9


def check_training(config: GPT2Config, rows: int, time: int, parameters: str) -> None:
    """Raises UserError, which says to lower `parameters`, where a batch [rows, time] cannot be trained on."""
    _check(rows * time * config.n_layer * KEPT * config.n_embd, f"a batch of {rows:,} x {time:,} tokens", parameters)


def check_forward(config: GPT2Config, rows: int, time: int, parameters: str) -> None:
    """Raises UserError, which says to lower `parameters`, where a batch [rows, time] cannot pass through a model."""
    _check(rows * time * KEPT * config.n_embd, f"a batch of {rows:,} x {time:,} tokens", parameters)


def check_decoding(config: GPT2Config, rows: int, new_tokens: int, parameters: str) -> None:
    """Raises UserError, which says to lower `parameters`, where so many texts cannot be generated at once.

    Each has the keys and the values of its tokens in every layer, and the logits of the next one.
    """
    time = min(new_tokens, config.n_positions)
    numbers = time * config.n_layer * 2 * config.n_embd + config.vocab_size
    _check(rows * numbers, f"{rows:,} texts of up to {time:,} tokens at once", parameters)


def _check(numbers: int, what: str, parameters: str) -> None:
    needed, here = numbers * FLOAT // GB, total() // GB
    if needed > here:
        needed = f"{needed:,} GB" if needed < 10**6 else "more than a million GB"
        template = "{what} need {needed} of memory at least, this machine has {here:,} GB: lower " + parameters
        raise ParameterError(template, what=what, needed=needed, here=here)
