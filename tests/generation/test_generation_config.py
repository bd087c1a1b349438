"""What a model's folder says of generation, beside transformers' `generate` on the same folder."""

import json
import sys
from types import SimpleNamespace

import pytest
import tiny
import torch
import transformers

import generate
from common.errors import UserError
from generation.options import GenerationOptions, choose
from gpt2_jittor.checkpoint.generation_config import GenerationConfig
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

NEW = 15  # tokens


class Folder:
    """A random model, a prompt, and two ordinary tokens that its greedy continuation holds: one soon, one later."""

    def __init__(self, path, seed, rng):
        self.path, self.model = tiny.model_folder(path, seed), tiny.hf_model(seed)
        self.tokenizer = load_tokenizer(path)
        self.model.generation_config.eos_token_id = None
        while True:
            self.prompt = " ".join(rng.choice(tiny.WORDS, 4))
            ids = self.transformers(self.model, max_new_tokens=NEW)
            firsts = [place for place, token in enumerate(ids) if token not in ids[:place] and token < 256]
            # 256 is the tokenizer's end token, which ends our texts where the folder is silent: it must come in none
            how = {"max_new_tokens": NEW, "num_beams": 3}
            beams, ended = (self.transformers(self.model, eos_token_id=end, **how) for end in (None, 256))
            if 256 not in ids and beams == ended and len(firsts) > 2:
                self.soon, self.later = ids[firsts[1]], ids[firsts[-1]]
                return

    def transformers(self, model=None, **settings) -> list[int]:
        """What transformers' `generate` makes of the folder as it is now."""
        if model is None:
            model = transformers.GPT2LMHeadModel.from_pretrained(self.path).eval()
        ids = torch.tensor([self.tokenizer(self.prompt)["input_ids"]])
        return model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, ids.shape[1] :].tolist()

    def text(self, ids) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def write(self, generation: dict | None, **config) -> None:
        """Changes config.json, and replaces generation_config.json or removes it."""
        edit(self.path / "config.json", **config)
        file = self.path / "generation_config.json"
        file.unlink() if generation is None else file.write_text(json.dumps(generation))


def edit(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def folder(tmp_path, seed, rng):
    return Folder(tmp_path / "model", seed, rng)


@pytest.fixture
def say(folder, monkeypatch, capsys, tmp_path):
    """Runs generate.py on the folder; returns the answer and what stood on stderr."""

    def saying(*options) -> tuple[str, str]:
        if "--input" in options:
            (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": folder.prompt}) + '\n{"prompt": "we"}\n')
            options = (*options, tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
        else:
            options = (*options, "--prompt", folder.prompt)
        monkeypatch.setattr(sys, "argv", ["generate.py", "--model", str(folder.path), *map(str, options)])
        generate.main()
        out, errors = capsys.readouterr()
        if "--input" in options:
            out = (tmp_path / "out.jsonl").read_text().splitlines()[0]
        return json.loads(out)["answer"] if "--json" in options or "--input" in options else out, errors

    return saying


# what is said where, and which of the two tokens ends the text then; 256 is the tokenizer's end token
ENDS = {
    "a list in generation_config.json": (lambda a, b: ({"eos_token_id": [256, b, a]}, 256), True),
    "a list in config.json alone": (lambda a, b: (None, [256, a]), True),
    "both, and they disagree": (lambda a, b: ({"eos_token_id": b}, [256, a]), False),
    "a copy of what config.json said once": (lambda a, b: ({"_from_model_config": True, "eos_token_id": a}, 256), True),
    "one in generation_config.json": (lambda a, b: ({"eos_token_id": a}, b), True),
    "one in config.json alone": (lambda a, b: (None, a), True),
    "none in generation_config.json": (lambda a, b: ({"do_sample": False}, [a, b]), None),
    "none anywhere": (lambda a, b: (None, None), None),
    "one beside two outside the vocabulary": (lambda a, b: ({"eos_token_id": [50256, a, -1]}, 256), True),
    "GPT-2's own, outside this vocabulary": (lambda a, b: (None, 50256), None),
}


@pytest.mark.parametrize("case", ENDS)
def test_generation_stops_at_each_end_token_where_transformers_does(folder, say, case):
    made, soon = ENDS[case]
    generation, config = made(folder.soon, folder.later)
    folder.write(generation, eos_token_id=config)
    length = {"do_sample": False, "max_new_tokens": NEW}
    ids = folder.transformers(**length)
    assert ids[-1] == {True: folder.soon, False: folder.later, None: ids[-1]}[soon] and (
        soon is not None or len(ids) == NEW
    )
    typed = ("--greedy", "--max-new-tokens", NEW)
    expected = folder.text(ids).strip()
    for way in (("--json",), (), ("--input",), ("--json", "--stop", "never said")):
        assert say(*typed, *way)[0].strip() == expected, way
    beams = folder.text(folder.transformers(num_beams=3, **length)).strip()
    assert say("--num-beams", 3, *typed[1:], "--json")[0].strip() == beams


# a folder's settings that leave nothing to chance: transformers is told nothing besides
ALONE = [
    {"do_sample": False, "repetition_penalty": 1.8},
    {"do_sample": False, "no_repeat_ngram_size": 2, "temperature": 0.3, "top_k": 5},
    {"num_beams": 3, "length_penalty": -1.0},
    {"num_beams": 4, "early_stopping": True, "repetition_penalty": 0.8, "do_sample": False},
]


@pytest.mark.parametrize("where", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("settings", ALONE)
def test_a_folders_settings_are_the_defaults_as_in_transformers(folder, say, settings, where):
    settings |= {"max_new_tokens": NEW}
    ends = {"eos_token_id": [256, folder.later]}
    folder.write(
        None if where == "config.json" else settings | ends, **(settings | ends if where == "config.json" else {})
    )
    answer, errors = say("--json")
    assert answer.strip() == folder.text(folder.transformers()).strip()
    (line,) = [line for line in errors.splitlines() if line.startswith("note: ")]
    assert line.startswith(f"note: {folder.path / where}: sets ") and f"max_new_tokens {NEW}" in line


# the folder's settings, what is typed -> how the options differ from DECODING, and what is said of the folder's
DECODING = {"greedy": False, "max_new_tokens": 80, "temperature": 0.7, "top_p": 0.9, "end_ids": (7,)}
CHOICES = [
    ({}, {}, {}, None),
    ({"repetition_penalty": 1.3}, {}, {"repetition_penalty": 1.3}, "sets repetition_penalty 1.3"),
    ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.0}, {}, None),
    ({"temperature": 1, "top_k": 40}, {}, {"temperature": 1, "top_k": 40}, "sets temperature 1, top_k 40"),
    ({"top_p": 0.9}, {}, {}, None),  # what it would be anyway
    ({"min_p": 0.1, "top_k": 4}, {"top_k": 0}, {"min_p": 0.1}, "sets min_p 0.1"),
    ({"do_sample": True, "temperature": 1.1}, {"greedy": True}, {"greedy": True}, None),
    ({"do_sample": True, "top_k": 3}, {}, {"top_k": 3}, "sets top_k 3"),
    ({"do_sample": False, "top_k": 3}, {}, {"greedy": True}, "sets do_sample false"),
    ({"do_sample": False, "top_k": 3}, {"temperature": 0.5}, {"temperature": 0.5, "top_k": 3}, "sets top_k 3"),
    ({"do_sample": False}, {"samples": 2}, {"samples": 2}, None),
    ({"do_sample": False}, {"best_of": 2}, {"best_of": 2}, None),
    ({"temperature": 0.0}, {}, {"greedy": True}, "sets do_sample false"),
    ({"temperature": 0.0}, {"samples": 2}, {"samples": 2}, None),
    ({"num_beams": 4, "length_penalty": 0.5}, {}, {"greedy": True, "num_beams": 4, "length_penalty": 0.5}, "sets num_"),
    ({"num_beams": 4, "length_penalty": 0.5}, {"num_beams": 1}, {}, None),
    ({"length_penalty": 0.5}, {"num_beams": 2}, {"greedy": True, "num_beams": 2, "length_penalty": 0.5}, "sets len"),
    ({"length_penalty": 0.5}, {}, {}, None),
    ({"num_beams": 4}, {"greedy": True}, {"greedy": True}, None),
    ({"num_beams": 4}, {"top_k": 7}, {"top_k": 7}, None),
    ({"num_beams": 4}, {"stop": (".",)}, {"stop": (".",)}, None),
    ({"num_beams": 4}, {"samples": 3}, {"greedy": True, "num_beams": 4, "samples": 3}, "sets num_beams 4"),
    ({"num_beams": 2}, {"samples": 3}, {"samples": 3}, None),
    ({"num_beams": 2, "do_sample": True}, {}, {"greedy": True, "num_beams": 2}, "2; not applied: do_sample (beams"),
    ({"max_new_tokens": 5}, {"max_new_tokens": 6}, {"max_new_tokens": 6}, None),
    ({"max_length": 50}, {}, {}, "not applied: max_length (give --max-new-tokens)"),
    ({"max_length": 50}, {"max_new_tokens": 6}, {"max_new_tokens": 6}, None),
    (
        {"top_k": 2, "suppress_tokens": [3], "penalty_alpha": 0.6},
        {},
        {"top_k": 2},
        "2; not applied: suppress_tokens, pen",
    ),
    ({"bad_words_ids": [[1]], "forced_bos_token_id": 0}, {}, {}, "not applied: bad_words_ids, forced_bos_token_id"),
    ({"a_setting_of_tomorrow": 0.5}, {}, {}, "not applied: a_setting_of_tomorrow"),
    ({"eos_token_id": [301, 7, -1]}, {}, {}, "not applied: eos_token_id 301, -1 (not in the vocabulary)"),
    (
        {"typical_p": 1.0, "use_cache": True, "transformers_version": "4.30.0", "bos_token_id": 7, "pad_token_id": 7}
        | {"_from_model_config": True, "output_scores": True, "suppress_tokens": None, "num_return_sequences": 1},
        {},
        {},
        None,
    ),
]


@pytest.mark.parametrize(("settings", "typed", "differs", "said"), CHOICES)
def test_what_is_typed_wins_over_the_folder_and_the_folder_over_the_defaults(tmp_path, settings, typed, differs, said):
    decoding, note = choose(typed, GenerationConfig(settings, tmp_path / "it.json"), (7,))
    assert decoding == GenerationOptions(**(DECODING | differs))
    assert note == "" if said is None else note.startswith(f"note: {tmp_path / 'it.json'}: ") and said in note, note


BAD = [
    ("eos_token_id", [], "must be a token's id or a list of some, not \\[\\]"),
    ("eos_token_id", "256", "must be a token's id or a list of some, not '256'"),
    ("eos_token_id", [256, "7"], "must be a token's id"),
    ("eos_token_id", True, "must be a token's id"),
    ("eos_token_id", [True], "must be a token's id"),
    ("eos_token_id", 12.0, "must be a token's id"),
    ("eos_token_id", {"0": 7}, "must be a token's id"),
    ("eos_token_id", [[7]], "must be a token's id"),
    ("temperature", "hot", "must be a number, not 'hot'"),
    ("temperature", -1.0, "must be 0 \\(greedy\\) or a positive number"),
    ("temperature", 10**400, "must be a number"),
    ("temperature", float("nan"), "must be a number"),
    ("top_k", 2.5, "must be a whole number, not 2.5"),
    ("top_k", True, "must be a whole number"),
    ("top_p", 3, "must be between 0 and 1"),
    ("min_p", [0.1], "must be a number"),
    ("repetition_penalty", 0, "must be a positive number"),
    ("no_repeat_ngram_size", -2, "must be a whole number, 0"),
    ("num_beams", 0, "must be at least 1"),
    ("length_penalty", 100, "must be between"),
    ("early_stopping", "soon", 'must be true, false or "never"'),
    ("do_sample", 1, "must be true or false"),
    ("max_new_tokens", 0, "must be at least 1"),
]


@pytest.mark.parametrize("where", ["generation_config.json", "config.json"])
@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_a_bad_value_is_one_line_that_names_the_file(tmp_path, where, name, value, message):
    (tmp_path / where).write_text(json.dumps({name: value}))
    with pytest.raises(UserError, match=f"^{tmp_path / where}: .*{message}") as caught:
        found = GenerationConfig.from_pretrained(tmp_path)
        choose({}, found, found.ends(SimpleNamespace(eos_token_id=256), 301))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"top_k": 1, "top_k": 2}'])
def test_a_file_that_is_no_json_object_is_named(tmp_path, content):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(UserError, match=f"^{tmp_path / 'generation_config.json'} "):
        GenerationConfig.from_pretrained(tmp_path)
