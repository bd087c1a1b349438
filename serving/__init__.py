"""Models behind HTTP: one process that answers many at once, and a page to talk with them (`serve.py`)."""
