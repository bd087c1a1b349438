"""The whole token tables that an adapter's file may hold: which of them are its own.

PEFT writes a layer's table whenever LoRA stands on it, and both tables of a vocabulary that was resized; that of a head
which is tied to the embedding, under one of both names. What is the base's anyway says nothing. No Jittor here.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from gpt2_jittor.checkpoint.stored import EMBEDDING, HEAD, StoredModel
from gpt2_jittor.checkpoint.weights import to_float32
from lora.files import Adapter


def with_own_tables(adapter: Adapter, base: Mapping[str, np.ndarray], tied: bool) -> Adapter:
    """The adapter with those tables alone that differ from `base`'s, by the names that these have.

    base: EMBEDDING, and HEAD where it is a table of its own, float32. `tied`: it is the embedding.
    """
    tables = dict(adapter.embeddings)
    if tied and HEAD in tables and EMBEDDING not in tables and not adapter.config.saves("transformer.wte"):
        tables[EMBEDDING] = tables.pop(HEAD)
    bases = {EMBEDDING: base[EMBEDDING], HEAD: base.get(HEAD, base[EMBEDDING])}
    own = {name: table for name, table in tables.items() if not np.array_equal(table, bases[name])}
    if EMBEDDING in own and HEAD in tables:
        own[HEAD] = tables[HEAD]  # of a tied pair both, or neither
    return dataclasses.replace(adapter, embeddings=own)


def beside(adapter: Adapter, stored: StoredModel) -> Adapter:
    """`with_own_tables` beside a checkpoint, whose tables are read only where the adapter has any."""
    return with_own_tables(adapter, *tables_of(stored)) if adapter.embeddings else adapter


def tables_of(stored: StoredModel) -> tuple[dict[str, np.ndarray], bool]:
    """A checkpoint's tables, and whether its head is tied: what `with_own_tables` compares with."""
    found = {name: stored.tensors[name] for name in (EMBEDDING, HEAD) if name in stored.tensors}
    tables = {name: to_float32(name, view, stored.directory) for name, view in found.items()}
    return tables, HEAD not in found and not stored.classifies
