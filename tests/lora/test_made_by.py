"""Adapters that versions of PEFT since 0.4 wrote, in their own files: the logits are those that the version gave."""

from pathlib import Path

import numpy as np
import pytest
from references import LOGITS, our_logits

import lora
from gpt2_jittor import GPT2LMHeadModel

MADE = Path(__file__).parent / "made_by"  # by make.py, which stands there
FOLDERS = sorted(folder.parent for folder in MADE.glob("*/*/expected.npz"))


def test_there_is_something_of_each_version():
    assert {folder.parent.name for folder in FOLDERS} == {"0.4", "0.7", "0.10", "0.13", "0.21"}
    assert any((folder / "adapter_model.bin").is_file() for folder in FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name} {folder.name}")
def test_an_adapter_of_another_version_gives_its_logits(folder):
    expected = np.load(folder / "expected.npz")
    model = GPT2LMHeadModel.from_pretrained(MADE / "base")
    plain = our_logits(model, expected["ids"])
    lora.load_adapter(model, folder, ignore_base=True)
    found = our_logits(model, expected["ids"])
    np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=LOGITS)
    assert np.abs(found - plain).max() > 100 * LOGITS
    lora.merge(model)
    np.testing.assert_allclose(our_logits(model, expected["ids"]), expected["logits"], rtol=0, atol=LOGITS)
