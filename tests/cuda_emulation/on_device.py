"""What is particular to CUDA, on the emulated device: masks, launches of a step, kernels of our own.

`test_on_device.py` runs it in a process in which Jittor has used CUDA from its start.
"""

import contextlib
import json

import numpy as np
import pytest
import tiny

import lora
import train
from generation.decoding import generate, stream
from generation.sampling import make_sampler
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.ops import dropout, fused
from gpt2_jittor.runtime.backend import jt
from tests.cuda_emulation import device
from training.optimizer import AdamW
from training.step import update


class Batch:
    def __init__(self, seed: int):
        self.input_ids, self.labels, self.attention_mask = tiny.padded_batch(seed)
        self.scored = int((self.labels[:, 1:] != -100).sum())


def model_with_adapter(folder) -> GPT2LMHeadModel:
    model = GPT2LMHeadModel.from_pretrained(tiny.model_folder(folder, seed=1, dropout=0.1))
    targets = ["c_attn", "c_proj", "c_fc"]
    return lora.inject(model, lora.LoraConfig(r=3, lora_alpha=7, lora_dropout=0.1, target_modules=targets))


COUNTED = ["launches", "products", "copies_to_device", "copies_to_host", "bytes_to_host", "synchronisations"]
COLUMNS = ["different operators", "operators", *COUNTED]
MOST_LAUNCHES = 150  # of gpt2's 12 layers a token, products among them


def counted(work) -> dict:
    """What `work()` asks of Jittor and of the device, when everything that it needs is compiled."""
    work()
    jt.sync_all(True)
    before = device.counts()
    work()
    jt.sync_all(True)
    after = device.counts()
    with jt.profile_scope(warmup=0, rerun=0) as report:
        work()
    names, runs = zip(*((row[0], int(row[2])) for row in report[1:]), strict=True)
    assert not [name for name in names if "JIT_cpu" in name]  # such ones copy to the host and back
    counts = {name: after[name] - before[name] for name in COUNTED}
    return {"different operators": len(names), "operators": sum(runs)} | counts


def table(rows: dict[str, dict]) -> str:
    heads = [name.replace("_", " ") for name in COLUMNS]
    lines = [f"| GPT-2 of 2 layers | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    return "\n".join([*lines, *(f"| {title} | {' | '.join(map(str, row.values()))} |" for title, row in rows.items())])


def test_a_step_copies_to_the_host_once(tmp_path, capsys):
    model = model_with_adapter(tmp_path)
    optimizer = AdamW(lora.trainable(model))
    batch = Batch(seed=3)

    def step():
        return update(model, optimizer, [batch], 1e-3, 1.0, dropout_seed=(0, optimizer.steps)).loss

    rows = {}
    for way, scope in ((", composed", fused.composed_only), ("", contextlib.nullcontext)):
        with scope():
            model.train()
            rows["an update" + way] = counted(step)
            model.eval()
            rows["a token, the adapter beside the weights" + way] = token(model)
    with capsys.disabled():
        print("\n" + table(rows))
    for title, counts in rows.items():
        assert counts["launches"] > 10 and counts["products"] > 5, title
        assert counts["copies_to_host"] == 1, (title, counts)


def token(model, **options) -> dict:
    """The counts of a token of a stream: neither the prompt's nor one for which the cache grows."""
    tokens = stream(model, tiny.random_ids(4, 9), make_sampler(**options), 30, None)
    next(tokens)
    return counted(lambda: next(tokens))


def test_a_token_is_copied_to_the_host_and_nothing_else_is(tmp_path, capsys):
    """Of a plain model, by the kernels; what gpt2 takes follows from models of 2 and of 3 layers."""
    models = [
        GPT2LMHeadModel.from_pretrained(tiny.model_folder(tmp_path / str(layers), seed=1, n_layer=layers))
        for layers in (2, 3)
    ]
    rows = {"a token": token(models[0], greedy=True)}
    with fused.cuda_kernels():
        for name, options in (("greedy", {"greedy": True}), ("drawn", {"temperature": 0.7, "top_k": 9, "top_p": 0.9})):
            two, three = (token(model, **options) for model in models)
            rows[f"a token, {name}, with kernels"] = two
            assert two["copies_to_host"] == 1 and two["bytes_to_host"] == 8
            launches, more = (sum(counts[kind] for kind in ("launches", "products")) for counts in (two, three))
            assert launches + 10 * (more - launches) <= MOST_LAUNCHES
    with capsys.disabled():
        print("\n" + table(rows))


def test_a_sampler_that_looks_at_the_ids_takes_the_logits_to_the_host(tmp_path):
    model = GPT2LMHeadModel.from_pretrained(tiny.model_folder(tmp_path, seed=1))
    with fused.cuda_kernels():
        counts = token(model, greedy=True, repetition_penalty=1.2)
    assert counts["copies_to_host"] == 1 and counts["bytes_to_host"] == 4 * model.config.vocab_size


@pytest.mark.parametrize("options", [{"greedy": True}, {"temperature": 0.8, "top_k": 20, "top_p": 0.9}], ids=str)
def test_the_device_draws_what_the_host_draws_by_the_same_seed(tmp_path, seed, options):
    model = GPT2LMHeadModel.from_pretrained(tiny.model_folder(tmp_path, seed))
    prompts = [tiny.random_ids(seed + row, length) for row, length in enumerate((3, 11, 7))]

    def answers() -> list:
        return generate(model, prompts, make_sampler(**options, seed=5), 12, None)

    on_host = answers()
    with fused.cuda_kernels():
        on_device = answers()
    assert [row.ids for row in on_device] == [row.ids for row in on_host]
    # a sum of a dozen, of logits that agree to 1e-4
    np.testing.assert_allclose([row.log_prob for row in on_device], [row.log_prob for row in on_host], atol=2e-3)


def test_an_update_of_the_trainer_copies_to_the_host_once(tmp_path, monkeypatch):
    """It logs loss and norm; by the difference between runs of 4 and of 8 steps."""
    tiny.model_folder(tmp_path / "model", seed=1, dropout=0.1)
    tiny.dialogue_folder(tmp_path / "data", seed=2)

    def copies(steps: int) -> int:
        where = ["--model", tmp_path / "model", "--data-dir", tmp_path / "data", "--output-dir", tmp_path / str(steps)]
        rare = ["--max-steps", steps, "--eval-every", 100, "--save-every", 100, "--batch-size", 4, "--lora-r", 2]
        words = map(str, ["train.py", "--task", "dailydialog", *where, *rare])
        monkeypatch.setattr("sys.argv", list(words))
        before = device.counts()["copies_to_host"]
        train.main()
        return device.counts()["copies_to_host"] - before

    assert copies(8) - copies(4) == 4


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_masks_are_the_generators_on_this_device_too(seed, p):
    """kernels/random.h, in numpy."""
    with np.errstate(over="ignore"):
        h = np.uint32(seed) ^ (np.arange(3 * 5 * 7, dtype=np.uint32) * np.uint32(0x9E3779B1))
        h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        h = h ^ (h >> np.uint32(16))
    expected = (h >= np.uint32(dropout.threshold(p))).astype(np.float32) / np.float32(1 - p)
    found = dropout.scaled_mask((3, 5, 7), p, seed).numpy()
    np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-6)  # a division, in fast math


SUM = """
    template <int THREADS>
    __global__ void row_sums(const float* x, float* y, int width) {
        __shared__ float partial[THREADS];
        float sum = 0;
        for (int i = threadIdx.x; i < width - OFF_BY_ONE; i += THREADS) sum += x[blockIdx.x * width + i];
        partial[threadIdx.x] = sum;
        BARRIER;
        for (int half = THREADS / 2; half; half /= 2) {
            if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
            BARRIER;
        }
        if (threadIdx.x == 0) y[blockIdx.x] = partial[0];
    }
"""


def row_sums(x, barrier: str = "__syncthreads()", off_by_one: int = 0):
    defined = f"#undef BARRIER\n#undef OFF_BY_ONE\n#define BARRIER {barrier}\n#define OFF_BY_ONE {off_by_one}\n"
    return jt.code(
        [x.shape[0]],
        "float32",
        [x],
        cuda_header=defined + SUM,
        cuda_src="row_sums<128><<<in0_shape0, 128>>>(in0_p, out0_p, in0_shape1);",
    )


def test_a_kernel_of_our_own_sums_rows_and_a_broken_one_does_not(rng):
    x = rng.uniform(1, 2, (5, 333)).astype(np.float32)
    np.testing.assert_allclose(row_sums(jt.array(x)).numpy(), x.sum(1), rtol=1e-5)
    for broken in ({"barrier": "(void)0"}, {"off_by_one": 1}):
        found = row_sums(jt.array(x), **broken).numpy()
        assert not np.allclose(found, x.sum(1), rtol=1e-3), broken  # an element is a five-hundredth of a row


def test_counts_are_those_of_this_process():
    assert jt.flags.use_cuda == 1
    told = device.counts()
    assert json.dumps(told) and told["launches"] == sum(told["kernels"].values())
