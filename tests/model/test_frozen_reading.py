"""A base of fewer bits while it is read: its rows, and the memory that it takes."""

import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import tiny
import transformers
from places import ROOT
from references import our_logits

from gpt2_jittor import GPT2LMHeadModel
from gpt2_jittor.checkpoint.stored import open_model
from gpt2_jittor.runtime.backend import jt

IDS = tiny.random_ids(seed=5)


@pytest.mark.parametrize("kept", ["fp32", "int8"])
def test_more_tokens_begin_as_the_mean_of_those_that_were_there(base, tmp_path, kept):
    model = GPT2LMHeadModel.from_stored(open_model(base), base=kept, vocabulary=305)
    weight = safetensors.numpy.load_file(base / "model.safetensors")["transformer.wte.weight"]
    ids = jt.array(np.array([303, 5], np.int32))
    found, expected = model.transformer.wte(ids).numpy(), np.stack([weight.mean(0), weight[5]])
    np.testing.assert_allclose(found, expected, atol=1e-6 if kept == "fp32" else np.abs(expected).max() / 250)
    assert model.config.vocab_size == 305 and our_logits(model, IDS).shape[-1] == 305


LOAD = """
import sys
from benchmarks.worker import most_mb
from gpt2_jittor import GPT2LMHeadModel
tiny, large, what, kept = sys.argv[1:]
GPT2LMHeadModel.from_pretrained(tiny, **{what: kept})
before = most_mb()
model = GPT2LMHeadModel.from_pretrained(large, **{what: kept})
print(int((most_mb() - before) * 2**20))
"""


@pytest.mark.parametrize("what", ["base", "weights"])
def test_a_model_is_never_all_float32_while_it_is_read(base, tmp_path, what):
    width, layers, vocab = 512, 14, 4096
    sizes = {"n_embd": width, "n_inner": 4 * width, "n_layer": layers, "n_head": 8, "vocab_size": vocab}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(n_positions=64, **sizes)).save_pretrained(tmp_path)
    numbers = 12 * width**2 * layers + vocab * width
    largest = 4 * vocab * width  # bytes of a float32 tensor
    peaks = {}
    for kept in ("fp32", "bf16", "int8"):
        run = subprocess.run(
            [sys.executable, "-c", LOAD, base, tmp_path, what, kept],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[kept] = int(run.stdout.split()[-1])
    assert peaks["fp32"] > 4 * numbers  # so the figures are of what they say
    # beside what is kept, one tensor several times: mapped, as floats, divided, rounded
    assert peaks["int8"] < numbers + 7 * largest < 0.6 * 4 * numbers
    assert peaks["bf16"] < 2 * numbers + 7 * largest < 0.85 * 4 * numbers
