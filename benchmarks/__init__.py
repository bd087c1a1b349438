"""Races against PyTorch: every contestant is a process of its own that does the same work.

`ours` is a module of the project; what runs PyTorch or CTranslate2 is started as a script, so that this project's
`datasets` does not stand in the way of Hugging Face's.
"""
