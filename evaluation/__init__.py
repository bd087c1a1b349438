"""Using what was trained: answers, classes, measures."""
