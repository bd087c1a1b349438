"""Training data: a publisher's file becomes examples, examples become ids and labels, those become batches.

Nothing here knows the model or its framework. The name shadows Hugging Face's package on purpose, so that
`import datasets` never pulls it in; transformers looks for the names below as soon as it sees a package
that is called so.
"""

from datasets.example import Dataset, Example, Segment
from datasets.task import Task

__version__ = "0.1.0"


class IterableDataset:
    """Only a name that transformers asks for: every dataset here fits into memory."""


__all__ = ["Dataset", "Example", "IterableDataset", "Segment", "Task"]
