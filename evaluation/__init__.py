"""Measuring a model on a task: losses, figures with their intervals, reports."""
