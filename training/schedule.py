"""The learning rate of a step."""

import math

SCHEDULES = ("linear", "cosine", "constant")


def learning_rate(schedule: str, peak: float, step: int, warmup_steps: int, total_steps: int) -> float:
    """The rate of update `step` (the first is 0): up to `peak` in `warmup_steps`, then as the schedule says.

    The same numbers as transformers' get_linear_schedule_with_warmup, get_cosine_… and get_constant_….
    """
    # 1) warm-up: a straight line from 0
    if step < warmup_steps:
        return peak * step / warmup_steps
    # 2) constant
    if schedule == "constant":
        return peak
    # 3) down to 0 at `total_steps`
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (1 - progress) if schedule == "linear" else peak * 0.5 * (1 + math.cos(math.pi * progress))
