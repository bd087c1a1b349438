"""Tiny things to test with: models of two layers in Hugging Face's layout, a byte tokenizer, batches, dialogues."""

import gzip
import json

import numpy as np
import torch
import transformers
from pyarrow import Table, parquet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from datasets.encode import IGNORED
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

# sizes of which none is a multiple of a vector's width; the vocabulary holds the tokenizer's 257 entries
SIZES = {"vocab_size": 301, "n_positions": 101, "n_embd": 36, "n_layer": 2, "n_head": 3, "n_inner": 58}
END = "<|endoftext|>"
WORDS = ["the", "a", "tea", "sun", "we", "you", "like", "see", "drink", "it", "is", "warm", "cold", "really", "how"]


def hf_model(seed: int, dropout: float = 0.0, **settings) -> transformers.GPT2LMHeadModel:
    """A random model in evaluation mode."""
    drops = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    ends = {"bos_token_id": 256, "eos_token_id": 256}
    torch.manual_seed(seed)
    return moved(transformers.GPT2LMHeadModel(transformers.GPT2Config(**(SIZES | drops | ends | settings))))


def moved(model):
    """A model of torch's in evaluation mode, whatever is trained of it moved at random.

    Fresh norms, biases and LoRA's B are ones and zeros, and would hide what goes wrong.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                # 0.2: far enough from 0 for attention and norms to matter, as in a trained model
                parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


def save_tokenizer(folder) -> None:
    """A byte-level tokenizer without merges: 256 bytes, and the end token as 256."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate([*alphabet, END])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    tokenizer.save(str(folder / "tokenizer.json"))


def byte_tokenizer(folder):
    """That tokenizer, loaded: "!" is 0, and so on up to "~"; a space is 220, the end token 256."""
    save_tokenizer(folder)
    return load_tokenizer(folder)


def write_records(path, records: list[dict]):
    """Records as the path's name says, .parquet, .jsonl or .jsonl.gz, in a new folder perhaps; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(Table.from_pylist(records), path)
        return path
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def model_folder(folder, seed: int, **settings):
    """A folder with a random model and the byte tokenizer; returns the folder."""
    hf_model(seed, **settings).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def still_world(root):
    """Folders of a model without dropout, `model`, and of dialogues, `data`; returns the one that holds them.

    Masks are the one thing in which several processes differ from one.
    """
    model_folder(root / "model", seed=1)
    dialogue_folder(root / "data", seed=2)
    return root


def classifier_folder(folder, seed: int, labels, **settings):
    """A folder with a random classifier of `labels` and the byte tokenizer; returns the folder."""
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    torch.manual_seed(seed)
    model = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**(SIZES | names | settings)))
    moved(model).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def dialogue_folder(folder, seed: int, train: int = 21, validation: int = 7):
    """Random short dialogues in DailyDialog's layout, of uneven length; returns the folder."""
    random = np.random.default_rng(seed)
    for split, lines in (("train", train), ("validation", validation)):
        path = folder / split / f"dialogues_{split}.txt"
        path.parent.mkdir(parents=True)
        path.write_text("".join(_dialogue(random) for _ in range(lines)), encoding="utf-8")
    return folder


def _dialogue(random: np.random.Generator) -> str:
    turns = [" ".join(random.choice(WORDS, random.integers(1, 4))) for _ in range(random.integers(2, 4))]
    return "".join(f"{turn} . __eou__ " for turn in turns).rstrip() + "\n"


def random_ids(seed: int, shape=(3, 17)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SIZES["vocab_size"], shape)


def padded_batch(seed: int, lengths=(17, 5, 11)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, labels (about a third not scored) and mask of examples padded on the right: [batch, time] each."""
    random = np.random.default_rng(seed)
    ids = random_ids(seed, (len(lengths), max(lengths)))
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    labels = np.where((mask == 1) & (random.random(ids.shape) > 0.3), ids, IGNORED)
    return ids, labels, mask
