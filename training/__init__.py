"""The training loop and what belongs to it: arguments, optimizer, schedule, checkpoints, metrics, plots."""
