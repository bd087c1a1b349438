"""Measuring a model on a task: figures with their intervals, and reports."""
