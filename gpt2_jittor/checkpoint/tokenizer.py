"""Text to token ids and back, through transformers' tokenizers, and text that appears while it is generated.

transformers is imported when the first tokenizer is loaded: `--help` and errors need not wait for it.
"""

import functools
import os
import re
import tempfile
from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ParameterError, UserError
from common.files import TEMPORARY, flush, open_regular, read_json
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.checkpoint.patterns import load_guarded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
SURROGATE = re.compile(r"[\ud800-\udfff]")  # half of a character, which no tokenizer takes
END_OF_TEXT = "<|endoftext|>"
END_OF_TURN = "<END>"  # the end token of a vocabulary to which it was added


def load_tokenizer(directory: str | Path) -> "PreTrainedTokenizerFast":
    """Loads a folder's tokenizer: `tokenizer.json`, or else `vocab.json` with `merges.txt`.

    It has an end token, `<|endoftext|>` unless the folder names another, and pads with it unless the folder
    names a padding token. Raises UserError where files are missing or damaged or there is no end token.
    """
    directory = Path(directory)
    file = directory / "tokenizer.json"
    # checked here because transformers builds an empty tokenizer out of missing files
    if not file.is_file() and not all((directory / name).is_file() for name in ("vocab.json", "merges.txt")):
        raise UserError(f"{directory} has no tokenizer: tokenizer.json, or vocab.json and merges.txt, must be there")
    content = read_json(file) if file.is_file() else None
    is_gpt2 = content is None or _is_gpt2(content)
    _check_marks(directory)

    # without this it tells everybody who runs Jittor that PyTorch was not found
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # nor can anybody mend what it warns of in a tokenizer's settings; a program that imports it first has its own level
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import transformers

    # The plain class takes tokenizer.json as it is, but saves a name that transformers 4 does not know
    kind = transformers.GPT2TokenizerFast if is_gpt2 else transformers.PreTrainedTokenizerFast
    try:
        load = functools.partial(kind.from_pretrained, directory, local_files_only=True)
        tokenizer = load_guarded(load, content or {}, file, known=is_gpt2)
    except UserError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exceptions over damaged files
        raise UserError(f"the tokenizer in {directory} cannot be read: {error}; get its files again") from error
    return _with_end_token(tokenizer, directory)


def add_tokens(tokenizer: "PreTrainedTokenizerFast", tokens: Sequence[str]) -> list[int]:
    """Makes each of `tokens` one token that no text can spell; returns their ids. END_OF_TURN becomes the end token.

    Raises UserError where one is empty, is named twice, or is a token already.
    """
    from tokenizers import AddedToken

    known = tokenizer.get_vocab() if tokens else {}
    for index, token in enumerate(tokens):
        if not token.strip() or token in known or token in tokens[:index]:
            raise ParameterError(
                "{added_tokens} must be new, each named once, not {token!r}: choose others, such as <USER>", token=token
            )
        if SURROGATE.search(token):
            raise ParameterError(
                "{added_tokens}: {token!r} is not UTF-8 text; check the terminal's encoding", token=token
            )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    if END_OF_TURN in tokens:
        tokenizer.eos_token = END_OF_TURN
    return tokenizer.convert_tokens_to_ids(list(tokens))


def save_tokenizer(tokenizer: "PreTrainedTokenizerFast", directory: str | Path) -> None:
    """Writes the tokenizer's files into a folder, for `load_tokenizer` and for transformers.

    Raises UserError where that cannot be.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=TEMPORARY) as made:
            tokenizer.save_pretrained(made)
            for file in Path(made).iterdir():
                flush(file)
                file.replace(directory / file.name)
        flush(directory)
    except Exception as error:  # the tokenizers library raises bare Exceptions over a full disk
        raise UserError(f"cannot write the tokenizer to {directory}: {error}; choose another folder") from error


def check_sizes(tokenizer: "PreTrainedTokenizerFast", config: GPT2Config) -> None:
    """Raises UserError where the tokenizer makes ids for which the model has no embedding."""
    tokens = max(tokenizer.get_vocab().values(), default=-1) + 1  # its ids may have gaps
    if tokens > config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokens} tokens but the model's vocab_size is {config.vocab_size}; "
            "use the tokenizer that belongs to the model"
        )


def text_of(ids: Sequence[int], tokenizer: "PreTrainedTokenizerFast") -> str:
    """The text that the ids spell, every space of it; special tokens are no text."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class TextStream:
    """Turns token ids into text as they come, whole characters only: a token may end inside of one.

    The pieces, joined, are `text_of` all the ids.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast"):
        self.tokenizer = tokenizer
        self.shown: list[int] = []  # the ids behind the last piece: what the next one may depend on
        self.waiting: list[int] = []

    def push(self, token_id: int) -> str:
        """Takes one id; returns the text that is certain now, often one word, sometimes nothing."""
        self.waiting.append(token_id)
        text = self._text()
        return "" if text.endswith("\N{REPLACEMENT CHARACTER}") else self._show(text)

    def flush(self) -> str:
        """Returns what is left: bytes that never became a character, as U+FFFD."""
        return self._show(self._text())

    def _text(self) -> str:
        return self._decode(self.shown + self.waiting)[len(self._decode(self.shown)) :]

    def _show(self, text: str) -> str:
        if text:  # behind special tokens the text before them still says how it goes on
            self.shown = self.waiting
        self.waiting = []
        return text

    def _decode(self, ids: list[int]) -> str:
        return text_of(ids, self.tokenizer)


def _check_marks(directory: Path) -> None:
    """Raises UserError where one of the files begins with a byte order mark, which transformers takes for text."""
    for name in FILES:
        path = directory / name
        if path.is_file():
            with open_regular(path) as file:
                if file.read(len(BOM_UTF8)) == BOM_UTF8:
                    raise UserError(f"{path} begins with a byte order mark: save it as UTF-8 without one")


def _is_gpt2(content: dict) -> bool:
    """Whether a tokenizer.json is what transformers' GPT-2 class rebuilds from its vocabulary and merges."""
    parts = [content.get(name) or {} for name in ("model", "pre_tokenizer")]
    if not all(isinstance(part, dict) for part in parts) or content.get("normalizer"):
        return False
    model, splitter = parts
    byte_level = splitter.get("type") == "ByteLevel" and not splitter.get("add_prefix_space")
    return model.get("type") == "BPE" and byte_level and END_OF_TEXT in model.get("vocab", ())


def _with_end_token(tokenizer: "PreTrainedTokenizerFast", directory: Path) -> "PreTrainedTokenizerFast":
    if tokenizer.eos_token is None and END_OF_TEXT in tokenizer.get_vocab():
        tokenizer.eos_token = END_OF_TEXT
    if tokenizer.eos_token is None:
        raise UserError(f"the tokenizer in {directory} has no end token; name its eos_token in tokenizer_config.json")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
