"""Strangers' files: pipes, byte order marks, and little files that unpack to much."""

import gzip
import json
import os
import resource
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from commands import assert_one_line_error
from places import ROOT

from common.errors import UserError
from common.files import open_regular, read_json, read_yaml
from common.limit import at_most
from datasets import tasks
from datasets.read import read_text, read_zip_member
from datasets.records import records
from generation.requests import read_requests
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

MARK = b"\xef\xbb\xbf"
READERS = {
    "a.txt": read_text,
    "a.jsonl.gz": read_text,
    "a.zip": lambda path: read_zip_member(path, "a"),
    "a.parquet": lambda path: list(records(path, ["text"])),
    "a.tsv": lambda path: list(records(path, ["text"])),
    "a.jsonl": lambda path: read_requests(path, tasks.find("text")),
    "a.json": read_json,
    "a.yaml": read_yaml,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_file_is_told_and_never_waited_for(tmp_path, kind, name):
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
    with at_most(10, AssertionError("it waits")), pytest.raises(UserError, match=f"{path}"):
        READERS[name](path)


@pytest.mark.parametrize("task", ["dailydialog", "squad", "imdb", "dolly", "emotion", "rte", "e2e", "text"])
def test_a_pipe_as_data_is_told(tmp_path, task):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match="pipe.txt is neither a folder nor a file"):
        tasks.data_dir(tasks.find(task), str(tmp_path / "pipe.txt"))


def test_a_pipe_among_the_reviews_is_told(tmp_path):
    (tmp_path / "train" / "pos").mkdir(parents=True)
    os.mkfifo(tmp_path / "train" / "pos" / "0_9.txt")
    with (
        at_most(10, AssertionError("it waits")),
        pytest.raises(UserError, match="it is a pipe or a device, not a file"),
    ):
        tasks.find("imdb").load("train", tmp_path)


def test_a_regular_file_is_opened_whole(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("a")
    for name in ("a", "b"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"abc"


def test_a_byte_order_mark_is_no_part_of_any_file(tmp_path):
    contents = {
        "a.txt": (b"one", lambda path: read_text(path) == "one"),
        "a.jsonl": (
            b'{"prompt": "x"}',
            lambda path: read_requests(path, tasks.find("text"))[0].fields["prompt"] == "x",
        ),
        "a.tsv": (b"text\nx\n", lambda path: [r for _, r in records(path, ["text"])] == [{"text": "x"}]),
        "a.json": (b'{"a": 1}', lambda path: read_json(path) == {"a": 1}),
        "a.yaml": (b"a: 1\n", lambda path: read_yaml(path) == {"a": 1}),
        "train/dialogues_train.txt": (
            b"A. __eou__ B. __eou__",
            lambda path: tasks.find("dailydialog").load("train", tmp_path)[0].segments[0].text == "A.",
        ),
    }
    for name, (content, is_right) in contents.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(MARK + content)
        assert is_right(path), name


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_a_byte_order_mark_that_transformers_stumbles_over_is_named(tmp_path, name):
    tiny.save_tokenizer(tmp_path)
    path = tmp_path / name
    path.write_bytes(MARK + (path.read_bytes() if path.exists() else b"{}"))
    with pytest.raises(UserError, match=f"{path} begins with a byte order mark: save it as UTF-8 without one"):
        load_tokenizer(tmp_path)


BIG = "a" * 5_000_000


def bomb(path: Path, kind: str) -> None:
    options = {"compression": "zstd"}
    table = {"text": pa.array([BIG] * 100)}
    if kind == "repeated":
        column = pa.DictionaryArray.from_arrays(pa.array([0] * 1500, pa.int32()), pa.array([BIG]))
        table, options = {"text": column}, options | {"store_schema": False, "dictionary_pagesize_limit": 1 << 26}
    elif kind == "compressed":
        options |= {"use_dictionary": False}
    elif kind == "differing":
        options |= {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}
    elif kind == "rows":
        table = {"text": pa.nulls(1 << 25, pa.string())}
    else:
        answers = pa.array([{"text": [BIG], "answer_start": [0]}] * 100)
        names = ("id", "title", "context", "question")
        table = {name: pa.array(["x"] * 100) for name in names} | {"answers": answers}
        options |= {"dictionary_pagesize_limit": 1 << 26}
    pq.write_table(pa.table(table), path, **options)


@pytest.mark.parametrize("kind", ["repeated", "compressed", "differing", "rows", "nested"])
def test_a_little_parquet_file_that_unpacks_to_much_is_refused_before_it_takes_memory(tmp_path, kind):
    path = tmp_path / "a.parquet"
    bomb(path, kind)
    assert path.stat().st_size < 1 << 20
    columns = ["id", "title", "context", "question", "answers"] if kind == "nested" else ["text"]
    script = (
        "import sys, resource; from pathlib import Path; from datasets.records import records\n"
        f"for _ in records(Path({str(path)!r}), {columns!r}): pass"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (5 << 30, 5 << 30)),
    )
    said = result.stderr.strip().splitlines()[-1]
    assert "UserError" in said and "unpacks to" in said and "is it the publisher's file?" in said


@pytest.mark.parametrize("encoding", [None, "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"])
def test_an_honest_parquet_file_is_read_however_its_text_is_stored(tmp_path, encoding, rng):
    texts = ["".join(rng.choice(list("ab ü"), 9)) for _ in range(3000)]
    answers = [{"text": [text, "x"], "answer_start": [1, 2]} for text in texts]
    how = {} if encoding is None else {"use_dictionary": False, "column_encoding": {"text": encoding}}
    pq.write_table(pa.table({"text": texts, "n": list(range(3000)), "answers": answers}), tmp_path / "a.parquet", **how)
    read = [record for _, record in records(tmp_path / "a.parquet", ["text", "n", "answers"])]
    assert read == [{"text": t, "n": n, "answers": a} for n, (t, a) in enumerate(zip(texts, answers, strict=True))]


def test_bombs_in_gzip_and_zip_are_refused(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(bytes(300_000_000), 1))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(300_000_000))
    for name in ("a.jsonl.gz", "a.zip"):
        with pytest.raises(UserError, match="more than 268,435,456 bytes"):
            READERS[name](tmp_path / name)


SPARSE = """
import resource, sys
from pathlib import Path
from common.errors import UserError
from common.files import read_json
from training.curves import read_run
from training.metrics_log import MetricsLog
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
folder = Path(sys.argv[1])
log = lambda: MetricsLog(folder, 2, None, {"train": 1})
for act in (lambda: read_json(folder / "config.json"), lambda: read_run(folder), log):
    try:
        act()
    except UserError as error:
        print(error)
"""


def test_a_sparse_file_that_claims_200_gb_is_told_at_once_and_never_read_whole(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train", "loss": 3.5}\n')
    for name in ("config.json", "metrics.jsonl"):
        os.truncate(tmp_path / name, 200 << 30)
    given = [sys.executable, "-c", SPARSE, tmp_path]
    result = subprocess.run(given, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)
    line = f"{tmp_path}/metrics.jsonl:2 has more than 1,048,576 characters; mend or remove the line\n"
    size = "has 214,748,364,800 bytes, more than the 67,108,864 that are read; mend it"
    assert (result.stdout, result.stderr) == (f"{tmp_path}/config.json {size}\n{line}{line}", "")


ODD = [
    {},
    {"clean_up_tokenization_spaces": True},
    {"model_max_length": 5},
    {"tokenizer_class": "LlamaTokenizer"},
    {"tokenizer_class": "Nonsense", "legacy": True, "use_fast": False},
    {"additional_special_tokens": ["<A>", "<B>"]},
    {"added_tokens_decoder": {"300": {"content": "<Q>", "special": True}}},
    {"bos_token": "<s>", "pad_token": "<pad>", "add_prefix_space": True},
    {"auto_map": {"AutoTokenizer": ["a.B", None]}, "chat_template": "{{ x }}"},
]


def test_what_transformers_says_about_a_tokenizers_settings_is_not_heard(tmp_path):
    """Loaded, used on a text that is longer than the model, extended and saved: nothing on stderr."""
    for index, settings in enumerate(ODD):
        folder = tmp_path / str(index)
        folder.mkdir()
        tiny.save_tokenizer(folder)
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": tiny.END} | settings))
    script = (
        "import sys; from gpt2_jittor.checkpoint.tokenizer import *; from datasets.encode import tokenise\n"
        "for folder in sys.argv[1:]:\n"
        "    t = load_tokenizer(folder); (ids,) = tokenise([('x . y' * 3000, False)], t)\n"
        "    text_of(ids, t); t.decode(ids)\n"
        "    add_tokens(t, ['<NEW>']); save_tokenizer(t, folder)\n"
    )
    settings = ("TRANSFORMERS_VERBOSITY", "TRANSFORMERS_NO_ADVISORY_WARNINGS", "PYTHONWARNINGS")
    environment = {name: value for name, value in os.environ.items() if name not in settings}
    given = [sys.executable, "-c", script, *sorted(tmp_path.iterdir())]
    result = subprocess.run(given, check=False, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stderr) == (0, "")


COMMANDS = ["train", "generate", "evaluate", "plot_loss", "benchmark"]
OPTIONS = {"plot_loss": ["runs/x", "--output", "a.png"], "benchmark": ["train"]}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_working_directory_that_is_gone_is_told_in_one_line(tmp_path, name):
    given = [sys.executable, str(ROOT / f"{name}.py"), *OPTIONS.get(name, [])]
    line = (
        "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); os.execv(sys.argv[1], sys.argv[1:])"
    )
    result = subprocess.run(
        [sys.executable, "-c", line, *given], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert_one_line_error(result, "has been deleted: cd to another")
