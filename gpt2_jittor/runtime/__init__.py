"""Jittor's surroundings: compilers, devices, caches, and the one place from which all else takes `jt` (`backend`)."""
