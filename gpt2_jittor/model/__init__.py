"""GPT-2 itself: its layers, the language model and the classifier, the cache of keys and values, narrow weights."""
