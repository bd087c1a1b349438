"""A corpus of malformed files: for each name in a model's folder, contents that no honest program writes.

`CORPUS` maps a file's name to {what is wrong: a function that makes the bytes out of the sound file's}.
"""

import io
import json
import pickle
import struct
import zipfile

DEEP = b"[" * 200_000
HOSTILE = "touch {}"  # what a file asks the reader to run; the test looks for the file that it would make


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start: int, end: int, shape=(1,), dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


TENSORS = {
    "empty": lambda whole: b"",
    "shorter than its first number": lambda whole: whole[:5],
    "cut within its header": lambda whole: whole[:300],
    "cut within its numbers": lambda whole: whole[: len(whole) // 2],
    "longer than it says": lambda whole: whole + b"more",
    "a header of 2^63 bytes": lambda whole: struct.pack("<Q", 1 << 63) + whole[8:],
    "a header of a terabyte": lambda whole: struct.pack("<Q", 1 << 40) + whole[8:],
    "a header of 50 MB of spaces": lambda whole: safetensors(b"{" + b" " * 50_000_000 + b"}"),
    "tensors over one another": lambda whole: safetensors({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)),
    "a hole between tensors": lambda whole: safetensors({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)),
    "a tensor outside the file": lambda whole: safetensors({"a": entry(0, 1 << 40, [1 << 38])}, bytes(4)),
    "a shape beyond all numbers": lambda whole: safetensors({"a": entry(0, 4, [1 << 62, 1 << 62])}, bytes(4)),
    "a negative shape": lambda whole: safetensors({"a": entry(0, 4, [-1])}, bytes(4)),
    "an unknown dtype": lambda whole: safetensors({"a": entry(0, 4, dtype="F7")}, bytes(4)),
    "a header nested absurdly": lambda whole: safetensors(b'{"a":' + DEEP),
    "a header that is no object": lambda whole: safetensors([1, 2]),
    "a header that is not UTF-8": lambda whole: safetensors(b'{"\xff\xfe": 1}'),
    "a Git LFS pointer": lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
    "an HTML page": lambda whole: b"<!doctype html><html>404</html>",
}

JSONS = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "nested absurdly": lambda whole: DEEP,
    "nested absurdly within its fields": lambda whole: b'{"n_embd": ' + b"[" * 900 + b"]" * 900 + b"}",
    "not UTF-8": lambda whole: b'{"n_layer": "\xff\xfe"}',
    "a list": lambda whole: b"[1, 2]",
    "a number of 10,000 digits": lambda whole: b'{"n_layer": ' + b"9" * 10_000 + b"}",
    "zeros": lambda whole: bytes(1000),
    "a key that is there twice": lambda whole: b'{"n_layer": 2, "model": 1, "model": 1}',
}


def changed(**values):
    """A JSON file in which these fields have other values."""
    return lambda whole: json.dumps(json.loads(whole) | values).encode()


CONFIGS = JSONS | {
    "a billion layers": changed(n_layer=10**9),
    "an embedding of terabytes": changed(n_embd=3 << 30, vocab_size=1 << 40),
    "sizes that are not numbers": changed(n_embd=float("nan")),
    "another model": changed(model_type="llama"),
    "a billion classes": changed(num_labels=10**9, id2label=None),
    "a billion classes and a half": changed(num_labels=1e9 + 0.5),
    "architectures that are a number": changed(architectures=5),
    "ends of another vocabulary": changed(n_positions=1 << 30),
}


# fields of adapter_config.json, each with another type or size than it can have
SETTINGS = [
    *({"r": value} for value in (10**9, 1e9, -1, "8", None, [8])),
    *({"lora_alpha": value} for value in (1e300, 10**400, "8", None)),
    *({"target_modules": value} for value in (5, {}, [5], "(", [["c_attn"]], {"c_attn": 1})),
    *({"modules_to_save": value} for value in (5, "lm_head", [5], ["("])),
    *({"trainable_token_indices": value} for value in ([10**30], [-1], 5, {"wpe": [1]}, [1.5], list("ab"))),
    *({"base_model_name_or_path": value} for value in (5, ["gpt2"], {})),
    *({"task_type": value} for value in (5, [], "CAUSAL")),
    {"peft_type": 5},
    {"what_a_later_version_may_bring": [1]},
]

GENERATION = JSONS | {
    "end tokens that are none": changed(eos_token_id=["256", True]),
    "a list of no end tokens": changed(eos_token_id=[]),
}


class Runs:
    """Pickled, it asks its reader to run a command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        import os

        return os.system, (HOSTILE.format(self.marker),)


def in_zip(pickled: bytes, folder: str = "archive", compression: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        archive.writestr(f"{folder}/data.pkl", pickled)
    return target.getvalue()


def nested_key() -> bytes:
    """A dictionary whose key is a tuple of tuples, each there twice: hashing or printing it takes 2^60 steps."""
    code = b"\x80\x02}" + b")"
    for number in range(60):
        code += b"q" + bytes([number]) + b"h" + bytes([number]) + b"\x86"
    return code + b"K\x01s."


def archives(marker) -> dict[str, bytes]:
    """Contents of pytorch_model.bin, by what is wrong with them. `marker`: a file that appears where code is run."""
    code = pickle.dumps({"transformer.wte.weight": Runs(marker)}, 2)
    evaluate = b"cbuiltins\neval\n(X" + struct.pack("<I", 20) + b"__import__('os').abc" + b"tR."
    return {
        "empty": b"",
        "a pickle that runs a command": code,
        "an archive that runs a command": in_zip(code),
        "an archive that evaluates": in_zip(evaluate),
        "an archive that names a path outside": in_zip(code, "../../outside"),
        "a bomb": in_zip(bytes(200_000_000), compression=zipfile.ZIP_DEFLATED),
        "a bomb of lists": in_zip(b"\x80\x02" + b"]" * 60_000_000, compression=zipfile.ZIP_DEFLATED),
        "a memory of four billion places": in_zip(b"\x80\x02}r\xff\xff\xff\xfe."),
        "a text of a terabyte": in_zip(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"a."),
        "a key that takes for ever": in_zip(nested_key()),
        "tuples nested absurdly": in_zip(b"\x80\x02)" + b"\x85" * 1_000_000 + b"."),
        "numbers": in_zip(pickle.dumps([1, 2, 3], 2)),
        "a stream with an absurd count": pickle.dumps(0x1950A86A20F9469CFC6C, 2)
        + b"\x80\x02"
        + b"\x8a\xff"
        + b"9" * 255,
        "zeros": bytes(4096),
    }


YAMLS = {
    "nested absurdly": DEEP,
    "a bomb of references": b"a: &a [x, x]\n"
    + b"".join(b"%c: &%c [*%c, *%c]\n" % (98 + n, 98 + n, 97 + n, 97 + n) for n in range(20))
    + b"seed: *u\n",
    "an object of Python's": b"!!python/object/apply:os.system ['touch MARKER']\n",
    "not UTF-8": b"task: \xff\xfe\n",
    "a number of 10,000 digits": b"seed: " + b"9" * 10_000 + b"\n",
    "a key that is there twice": b"seed: 1\nseed: 2\n",
    "a bomb of merges": b"a: &a {k: [x]}\n"
    + b"".join(b"%c: &%c {<<: [*%c, *%c]}\n" % (98 + n, 98 + n, 97 + n, 97 + n) for n in range(24)),
    "no date": b"seed: 2001-99-99\n",
    "a megabyte": b"# comment\n" * 120_000,
    "no mapping": b"- a\n- b\n",
    "a key that is a list": b"? [a, b]\n: 3\n",
    "cut within a text": b'task: "dailyd',
}

RECORDS = {
    "empty": b"",
    "not UTF-8": b'{"prompt": "\xff\xfe"}\n',
    "nested absurdly": DEEP + b"\n",
    "half a character": b'{"prompt": "\\ud800"}\n',
    "a number of 10,000 digits": b'{"prompt": ' + b"9" * 10_000 + b"}\n",
    "no object": b"[1]\n",
    "cut": b'{"prompt": "hel',
    "zeros": bytes(3000),
}
