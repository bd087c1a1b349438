"""A tokenizer as the fields of a GGUF file: llama.cpp then makes the same ids of a text."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf import Keys, TokenType

from common.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FIELDS = Keys.Tokenizer
ENDS = (FIELDS.EOS_ID, FIELDS.EOT_ID, FIELDS.EOM_ID)  # llama.cpp ends a text at each of them


def vocabulary(
    tokenizer: "PreTrainedTokenizerFast", rows: int, ends: Sequence[int], template: str | None, directory: Path
) -> dict[str, Any]:
    """The fields of a tokenizer, for an embedding of so many rows, with the tokens that end a text.

    Rows without a token are named [PAD7] and the like, and are unused. `template`: how a chat's turns are opened and
    closed, in Jinja. Raises UserError, naming `directory`, where it is no tokenizer of GPT-2's kind, and for more than
    three ends.
    """
    model = _gpt2_parts(tokenizer, directory)
    if len(ends) > len(ENDS):
        raise UserError(f"{directory}: a GGUF file has room for {len(ENDS)} tokens that end a text, not {len(ends)}")
    tokens = [f"[PAD{token}]" for token in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
    for text, token in tokenizer.get_vocab().items():
        tokens[token], types[token] = text, int(TokenType.NORMAL)
    for token, added in tokenizer.added_tokens_decoder.items():
        tokens[token] = added.content
        types[token] = int(TokenType.CONTROL if added.special else TokenType.USER_DEFINED)
    fields = {
        FIELDS.MODEL: "gpt2",
        FIELDS.PRE: "gpt-2",
        FIELDS.LIST: tokens,
        FIELDS.TOKEN_TYPE: types,
        FIELDS.MERGES: [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]],
        FIELDS.ADD_BOS: False,
    }
    # an answer's own end first: it is what programs show as the model's
    first = [end for end in ends if end == tokenizer.eos_token_id]
    fields |= dict(zip(ENDS, (*first, *(end for end in ends if end not in first)), strict=False))
    fields |= {FIELDS.BOS_ID: tokenizer.bos_token_id, FIELDS.PAD_ID: tokenizer.pad_token_id}
    fields |= {FIELDS.CHAT_TEMPLATE: template}
    return {key: value for key, value in fields.items() if value is not None}


def _gpt2_parts(tokenizer: "PreTrainedTokenizerFast", directory: Path) -> dict[str, Any]:
    """Its model of bytes and merges. Raises UserError where llama.cpp's "gpt-2" would split a text otherwise."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model, splitter = content["model"], content["pre_tokenizer"] or {}
    # each of them changes the ids of a text, and a GGUF file has no word for it
    changes = (content["normalizer"], splitter.get("add_prefix_space"), model.get("ignore_merges"))
    bytes_alone = splitter.get("type") == "ByteLevel" and splitter.get("use_regex", True)
    if model["type"] != "BPE" or not bytes_alone or any(changes) or not model["merges"]:
        raise UserError(f"the tokenizer in {directory} is not of GPT-2's kind, byte-level BPE, which llama.cpp knows")
    return model
