"""What a model's folder says of generation, read as transformers 5 reads it.

`generation_config.json` has the say, alone: where it is there, `config.json` is not asked, not even for an end token
that it does not name. Where it is missing, `config.json`'s entries of the same names count. The entries are kept as
they stand, so that a folder made from this one can say the same; each is checked where it is used.
"""

import dataclasses
import reprlib
import sys
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json
from gpt2_jittor.checkpoint.config import several_ids

FILE = "generation_config.json"
COPIED = "_from_model_config"  # transformers' mark of a file that repeats what config.json says
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

WHETHER, NUMBER, WHOLE, EARLY = "true or false", "a number", "a whole number", 'true, false or "never"'
KINDS = {
    WHETHER: lambda value: isinstance(value, bool),
    NUMBER: lambda value: isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST,
    WHOLE: lambda value: type(value) is int,
    EARLY: lambda value: isinstance(value, bool) or value == "never",
}
LARGEST = sys.float_info.max  # a whole number in JSON may be larger than any float

# what this project does as well: the defaults of generate.py's options
SETTINGS = {
    "do_sample": WHETHER,
    "temperature": NUMBER,
    "top_k": WHOLE,
    "top_p": NUMBER,
    "min_p": NUMBER,
    "repetition_penalty": NUMBER,
    "no_repeat_ngram_size": WHOLE,
    "num_beams": WHOLE,
    "length_penalty": NUMBER,
    "early_stopping": EARLY,
    "max_new_tokens": WHOLE,
}
# what it does not, though it would change the text, and the value besides null and false at which each is off
FOREIGN = {
    "max_length": None,  # counts the prompt, too
    "min_length": 0,
    "min_new_tokens": 0,
    "max_time": None,
    "stop_strings": None,
    "num_return_sequences": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "penalty_alpha": 0.0,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "top_h": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "renormalize_logits": None,
    "remove_invalid_values": None,
    "guidance_scale": 1,
    "token_healing": None,
    "watermarking_config": None,
}
# how the names begin of what changes no text of a GPT-2: what is kept and returned, and what encoders and drafts take
WITHOUT_EFFECT = (
    *("_", "transformers_version", "use_cache", "cache_", "max_cache_len", "compile_config", "disable_compile"),
    *("output_", "return_dict_in_generate", "low_memory", "decoder_start_token_id", "encoder_", "is_assistant"),
    *("num_assistant_", "assistant_", "prompt_lookup_", "max_matching_ngram_size", "target_lookbehind"),
    *("speculation_type", "use_mtp", "continuous_batching_config"),
)


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """A folder's entries about generation, and the file that they stand in."""

    values: dict[str, Any]
    source: Path

    @classmethod
    def from_pretrained(cls, directory: str | Path, settings: dict[str, Any] | None = None) -> "GenerationConfig":
        """Reads a folder's entries. `settings`: what its config.json holds, where that has been read.

        Raises UserError where the file that has them holds no JSON object.
        """
        path = Path(directory) / FILE
        if path.is_file():
            return cls(read_json(path), path)
        path = Path(directory) / "config.json"
        settings = read_json(path) if settings is None else settings
        known = {name: value for name, value in settings.items() if value is not None}
        return cls({COPIED: True} | {name: known[name] for name in (*IDS, *SETTINGS, *FOREIGN) if name in known}, path)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end a text, none where the file names none. Raises UserError for what is no token."""
        try:
            return several_ids(self.values.get("eos_token_id"))
        except ValueError as error:
            raise UserError(f"{self.source}: eos_token_id {error}; mend it") from None

    def ends(self, tokenizer: Any, vocab_size: int) -> tuple[int, ...]:
        """The tokens that end a text: the file's, or else the tokenizer's own.

        Ids outside the vocabulary never come and are left out: a small GPT-2 often names 50256, its class's default.
        Raises UserError for what is no token's id.
        """
        return tuple(end for end in self.end_ids if 0 <= end < vocab_size) or (tokenizer.eos_token_id,)

    def ending_with(self, tokenizer: Any, before: int | None) -> "GenerationConfig":
        """These entries for a model that learnt to end with the tokenizer's end token (see `with_end`).

        They are the same ones where that is among the end tokens already.
        """
        if tokenizer.eos_token_id in self.end_ids:
            return self
        ends = with_end(self.values.get("eos_token_id"), tokenizer.eos_token_id, before)
        ids = {"eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}
        return dataclasses.replace(self, values=self.values | ids)

    def settings(self) -> dict[str, Any]:
        """The entries that this project knows, without those that are null.

        Raises UserError, naming the file, for values of another type, and for counts below 1.
        """
        found = {name: self.values[name] for name in SETTINGS if self.values.get(name) is not None}
        for name, value in found.items():
            if not KINDS[SETTINGS[name]](value):
                raise UserError(f"{self.source}: {name} must be {SETTINGS[name]}, not {reprlib.repr(value)}; mend it")
        for name in ("num_beams", "max_new_tokens"):
            if found.get(name, 1) < 1:
                raise UserError(f"{self.source}: {name} must be at least 1, not {found[name]}; mend it")
        return found

    def not_applied(self) -> list[str]:
        """The names of the entries that this project does not know and that may change the text."""
        unknown = {name: value for name, value in self.values.items() if name not in (*IDS, *SETTINGS)}
        return [
            name
            for name, value in unknown.items()
            if not name.startswith(WITHOUT_EFFECT)
            and value is not False  # 0, its equal, may be a token
            and value not in (None, [], {}, FOREIGN.get(name))
        ]


def with_end(ids: Any, end: int, before: int | None) -> Any:
    """What names the end tokens, an id or a list of some, with `end` among them; as it is where it is there already.

    A file that names no more than `before`, the end token of the tokenizer before another took its place, has named
    nothing of its own: `end` takes its place, too.
    """
    several = several_ids(ids)
    if end in several:
        return ids
    return end if set(several) <= {before} else [*several, end]
