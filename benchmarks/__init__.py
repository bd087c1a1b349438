"""Races against PyTorch: every contestant is a process of its own that does the same work.

`ours` and `floor` are modules of the project; what runs transformers and PEFT is started as a script, so that this
project's `datasets` does not stand in the way of Hugging Face's.
"""
