"""Makes what `gpt2-nano` is pretrained from: plain text, a tokenizer of 8,192 tokens, random weights.

    python checkpoints/build_nano.py --squad train-v1.1.json.gz --dolly databricks-dolly-15k.jsonl.gz --output work
    python train.py --task text --tuning full --model work/model --data-dir work/text --output-dir work/run ...
    python checkpoints/build_nano.py --finish work/run --output checkpoints/gpt2-nano

The model card beside the weights (README.md) has the exact command of the published ones.
"""

import gzip
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tokenizers import ByteLevelBPETokenizer

from common.command import Parser, run_command
from common.errors import UserError
from common.files import write_json, write_text

END = "<|endoftext|>"
VOCABULARY = 8192
SIZES = {"n_positions": 512, "n_embd": 256, "n_layer": 4, "n_head": 4}
VALIDATION_EVERY = 50  # each 50th document is held out


def documents(squad: Path, dolly: Path) -> list[str]:
    """SQuAD's articles (their paragraphs, one a line) and Dolly's records (instruction, context, response)."""
    with gzip.open(squad, "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    texts = ["\n".join(p["context"].strip() for p in article["paragraphs"]) for article in articles]
    with gzip.open(dolly, "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    for record in records:
        parts = (record["instruction"], record["context"], record["response"])
        texts.append("\n".join(part.strip() for part in parts if part.strip()))
    return list(dict.fromkeys(texts))  # Dolly has a few exact duplicates


def build(squad: Path, dolly: Path, output: Path, seed: int) -> None:
    """Writes `output`/text (train.txt, validation.txt) and `output`/model (tokenizer, config, random weights)."""
    from gpt2_jittor import GPT2Config, GPT2LMHeadModel

    texts = documents(squad, dolly)
    held_out = texts[::VALIDATION_EVERY]
    train = [text for index, text in enumerate(texts) if index % VALIDATION_EVERY]
    write_text(output / "text" / "train.txt", f"\n{END}\n".join(train) + "\n")
    write_text(output / "text" / "validation.txt", f"\n{END}\n".join(held_out) + "\n")
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(train, vocab_size=VOCABULARY, min_frequency=2, special_tokens=[END])
    model_dir = output / "model"
    end_id = tokenizer.token_to_id(END)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        bos_token_id=end_id,
        eos_token_id=end_id,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        **SIZES,
    )
    GPT2LMHeadModel(config, seed).save_pretrained(model_dir)
    tokenizer.save_model(str(model_dir))  # vocab.json, merges.txt: GPT-2's own format
    write_json(model_dir / "tokenizer_config.json", tokenizer_config(config.n_positions))
    print(f"{len(train):,} training and {len(held_out):,} validation documents in {output / 'text'}")


def tokenizer_config(positions: int) -> dict:
    """What transformers' AutoTokenizer must know."""
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END)
    return {"tokenizer_class": "GPT2Tokenizer", **ends, "model_max_length": positions}


def finish(run: Path, output: Path) -> None:
    """Stores a run's best model in float16, with GPT-2's usual dropout in its configuration."""
    from gpt2_jittor import GPT2LMHeadModel
    from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

    model = GPT2LMHeadModel.from_pretrained(run)
    model.save_pretrained(output, dtype="float16")
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    write_json(output / "config.json", config | {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1})
    tokenizer = load_tokenizer(run)
    tokenizer.backend_tokenizer.model.save(str(output))  # vocab.json, merges.txt: GPT-2's own format
    write_json(output / "tokenizer_config.json", tokenizer_config(model.config.n_positions))


def main() -> None:
    """Builds, or finishes a run. Raises UserError where the options say neither."""
    parser = Parser(description=__doc__)
    parser.add_argument("--squad", type=Path, help="SQuAD v1.1's train-v1.1.json.gz")
    parser.add_argument("--dolly", type=Path, help="databricks-dolly-15k.jsonl.gz")
    parser.add_argument("--finish", type=Path, metavar="RUN", help="store this run's best model instead")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.finish:
        finish(given.finish, given.output)
    elif given.squad and given.dolly:
        build(given.squad, given.dolly, given.output, given.seed)
    else:
        raise UserError("give --squad and --dolly to build, or --finish RUN")


if __name__ == "__main__":
    run_command(main)
