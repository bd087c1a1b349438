"""What every contestant gets: one model of random weights, and the same ids, labels and masks."""

from pathlib import Path

import numpy as np

from common.errors import UserError
from datasets import tasks
from datasets.batches import Batch, collate, plan_batches
from datasets.encode import Encoded
from datasets.tasks import dailydialog
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

SIZES = {
    "tiny": {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": 8192},
    "gpt2": {},
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
    "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
}


def random_model(size: str, folder: Path, seed: int = 0, **changes) -> Path:
    """Writes a model of one of SIZES with random weights, and a vocabulary `t0`, `t1`, … that spells its ids.

    `changes` are values of its configuration.
    """
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from gpt2_jittor.checkpoint.initial import initial_weights
    from gpt2_jittor.checkpoint.write import write_model

    config = GPT2Config(**SIZES[size], **changes)
    width, inner = config.n_embd, config.mlp_size
    tensors = dict(initial_weights(config, seed))
    for part, rows in (("ln_f", width), *_vectors(config.n_layer, width, inner)):
        for kind in ("weight", "bias") if "ln_" in part else ("bias",):
            tensors[f"transformer.{part}.{kind}"] = np.full(rows, kind == "weight", np.float32)
    write_model(folder, config, tensors)
    words = Tokenizer(models.WordLevel({f"t{index}": index for index in range(config.vocab_size)}, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t0", bos_token="t0", unk_token="t0").save_pretrained(
        folder
    )
    return folder


def _vectors(layers: int, width: int, inner: int):
    for layer in range(layers):
        yield from ((f"h.{layer}.{name}", width) for name in ("ln_1", "ln_2", "attn.c_proj", "mlp.c_proj"))
        yield from ((f"h.{layer}.attn.c_attn", 3 * width), (f"h.{layer}.mlp.c_fc", inner))


def random_batches(path: Path, vocab: int, batch: int, time: int, count: int = 4, seed: int = 0) -> Path:
    """Writes `count` batches of random ids, all scored, without padding."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, vocab, (count, batch, time)).astype(np.int32)
    return _write(path, [Batch(rows, rows, np.ones_like(rows), rows.size, rows.size) for rows in ids])


def random_prompts(path: Path, vocab: int, batch: int, length: int, seed: int = 0) -> Path:
    """Writes random prompts [batch, length]."""
    prompts = np.random.default_rng(seed).integers(0, vocab, (batch, length)).astype(np.int32)
    np.savez(path, prompts=prompts)
    return path


def random_turns(file: Path, vocab: int, history: int, turn: int, count: int = 8, seed: int = 0) -> Path:
    """Writes a chat's history, int [history], and `count` next turns to it, int [count, turn]."""
    rng = np.random.default_rng(seed)
    np.savez(file, history=rng.integers(1, vocab, history), turns=rng.integers(1, vocab, (count, turn)))
    return file


def dialogues(folder: Path, data_dir: str | None, tokenizer_of: Path, count: int, batch: int) -> dict:
    """Writes the first `count` training dialogues twice: in batches of similar length, and in the order that shuffling
    gives, padded to each batch's longest. Returns the paths, and the real tokens, which are the same in both.
    """
    task = dailydialog.TASK
    examples = task.load("train", tasks.data_dir(task, data_dir)).examples[:count]
    if len(examples) < count:
        raise UserError(f"there are {len(examples)} dialogues, not {count}: give --data-dir, or fewer --dialogues")
    items: list[Encoded] = task.encode(examples, load_tokenizer(tokenizer_of), 512).items
    order = np.random.default_rng(0).permutation(len(items))
    shuffled = [order[start : start + batch] for start in range(0, len(items), batch)]
    grouped = plan_batches([len(item.input_ids) for item in items], batch, seed=0, epoch=0)
    paths = {}
    for name, batches in (("grouped", grouped), ("shuffled", shuffled)):
        paths[name] = _write(folder / f"{name}.npz", [collate([items[i] for i in chosen], 0) for chosen in batches])
    return paths | {"tokens": sum(len(item.input_ids) for item in items)}


def _write(path: Path, batches: list[Batch]) -> Path:
    arrays = {"count": np.array(len(batches))}
    for index, batch in enumerate(batches):
        arrays |= {f"ids{index}": batch.input_ids, f"labels{index}": batch.labels, f"mask{index}": batch.attention_mask}
    np.savez(path, **arrays)
    return path
