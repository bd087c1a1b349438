"""Jittor, imported once, in the environment that `runtime` prepared. Everything takes `jt` from here."""

from gpt2_jittor.runtime.runtime import import_jittor

jt = import_jittor()
