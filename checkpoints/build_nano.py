"""Makes what `gpt2-nano` is pretrained from: plain text, and random weights beside the tokenizer.

    python checkpoints/build_nano.py --squad train-v1.1.json.gz --dolly databricks-dolly-15k.jsonl.gz --imdb aclImdb \
        --tokenizer checkpoints/gpt2-nano --output work
    python train.py --task text --tuning full --model work/model --data-dir work/text --output-dir work/run ...
    python checkpoints/build_nano.py --finish work/run --output checkpoints/gpt2-nano

The model card beside the weights (README.md) has the exact command of the published ones. Text alone of the training
splits of this project's tasks is taken: what their validation and test splits hold is never learnt. Without
--tokenizer one of 8,192 tokens is made of the text.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tokenizers import ByteLevelBPETokenizer

from common.command import Parser, run_command
from common.errors import UserError
from common.files import write_json, write_text
from datasets import records
from datasets.example import Example, Segment
from datasets.holdout import select_split
from datasets.read import read_text
from datasets.tasks import dolly, imdb, squad

END = "<|endoftext|>"
VOCABULARY = 8192
SIZES = {"n_positions": 512, "n_embd": 256, "n_layer": 4, "n_head": 4}
VALIDATION_EVERY = 50  # each 50th document is held out


def documents(squad_file: Path, dolly_file: Path, imdb_dir: Path) -> tuple[list[str], list[str]]:
    """Training and validation documents: SQuAD's articles, Dolly's records, IMDB's reviews.

    Every 50th is for validation; what a task keeps for its own validation and test is in neither. Dolly's are the
    fewest and the most like what the model is asked later: they are there twice.
    """
    articles, instructions = _articles(squad_file), _instructions(dolly_file)
    reviews = [example.segments[0].text for example in imdb.load("train", imdb_dir).examples]
    trained_on = {
        *_trained_on(articles, squad_file, {"validation": squad.VALIDATION}),
        *_trained_on(instructions, dolly_file, dolly.SHARES),
        *reviews,
    }
    parts = [], []
    for index, text in enumerate([*articles, *instructions, *reviews]):
        if text in trained_on:
            parts[index % VALIDATION_EVERY == 0].append(text)
    train, held_out = parts
    return train + [text for text in train if text in instructions], held_out


def _articles(path: Path) -> dict[str, str]:
    """SQuAD's articles with their titles: each paragraph, then its questions, each above its answer."""
    titles = {}
    for article in json.loads(read_text(path))["data"]:
        lines = []
        for paragraph in article["paragraphs"]:
            lines.append(paragraph["context"].strip())
            for question in paragraph["qas"]:
                lines += [question["question"].strip(), question["answers"][0]["text"].strip()]
        titles["\n".join(lines)] = article["title"]
    return titles


def _instructions(path: Path) -> dict[str, str]:
    """Dolly's records (instruction, context, response) with their instructions."""
    instructions = {}
    for _, record in records.records(path, dolly.NEEDED, optional=("context",)):
        parts = [record[name].strip() for name in dolly.COLUMNS]
        instructions["\n".join(filter(None, parts))] = parts[0]
    return instructions


def _trained_on(keys: dict[str, str], path: Path, shares: dict[str, float]) -> list[str]:
    examples = [Example((Segment(text, scored=True),), str(path)) for text in keys]
    return [example.segments[0].text for example in select_split(examples, list(keys.values()), "train", shares)]


def build(train: list[str], held_out: list[str], tokenizer: Path | None, output: Path, seed: int) -> None:
    """Writes `output`/text (train.txt, validation.txt) and `output`/model (tokenizer, config, random weights)."""
    from gpt2_jittor import GPT2Config, GPT2LMHeadModel

    write_text(output / "text" / "train.txt", f"\n{END}\n".join(train) + "\n")
    write_text(output / "text" / "validation.txt", f"\n{END}\n".join(held_out) + "\n")
    bpe = _tokenizer(tokenizer, train)
    end_id = bpe.token_to_id(END)
    config = GPT2Config(
        vocab_size=bpe.get_vocab_size(),
        bos_token_id=end_id,
        eos_token_id=end_id,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        **SIZES,
    )
    model_dir = output / "model"
    GPT2LMHeadModel(config, seed).save_pretrained(model_dir)
    bpe.save_model(str(model_dir))  # vocab.json, merges.txt: GPT-2's own format
    write_json(model_dir / "tokenizer_config.json", tokenizer_config(config.n_positions))
    print(f"{len(train):,} training and {len(held_out):,} validation documents in {output / 'text'}")


def _tokenizer(directory: Path | None, texts: list[str]) -> ByteLevelBPETokenizer:
    if directory:
        return ByteLevelBPETokenizer.from_file(str(directory / "vocab.json"), str(directory / "merges.txt"))
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=VOCABULARY, min_frequency=2, special_tokens=[END])
    return tokenizer


def tokenizer_config(positions: int) -> dict:
    """What transformers' AutoTokenizer must know."""
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END)
    return {"tokenizer_class": "GPT2Tokenizer", **ends, "model_max_length": positions}


def finish(run: Path, output: Path) -> None:
    """Stores a run's best model in float16, with GPT-2's usual dropout in its configuration and no padding token."""
    from gpt2_jittor import GPT2LMHeadModel
    from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

    model = GPT2LMHeadModel.from_pretrained(run)
    model.save_pretrained(output, dtype="float16")
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    usual = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1, "pad_token_id": None}
    write_json(output / "config.json", config | usual)
    tokenizer = load_tokenizer(run)
    tokenizer.backend_tokenizer.model.save(str(output))  # vocab.json, merges.txt: GPT-2's own format
    write_json(output / "tokenizer_config.json", tokenizer_config(model.config.n_positions))


def main() -> None:
    """Builds, or finishes a run. Raises UserError where the options say neither."""
    parser = Parser(description=__doc__)
    parser.add_argument("--squad", type=Path, help="SQuAD v1.1's train-v1.1.json.gz")
    parser.add_argument("--dolly", type=Path, help="databricks-dolly-15k.jsonl.gz")
    parser.add_argument("--imdb", type=Path, help="IMDB's reviews, as --data-dir of the task takes them")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="vocab.json and merges.txt; else new ones")
    parser.add_argument("--finish", type=Path, metavar="RUN", help="store this run's best model instead")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.finish:
        finish(given.finish, given.output)
    elif given.squad and given.dolly and given.imdb:
        build(*documents(given.squad, given.dolly, given.imdb), given.tokenizer, given.output, given.seed)
    else:
        raise UserError("give --squad, --dolly and --imdb to build, or --finish RUN")


if __name__ == "__main__":
    run_command(main)
