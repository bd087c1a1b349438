"""Finding a model: folders, names, the hub's cache, and a download from a hub that runs inside the test."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import huggingface_hub.constants
import pytest

from common.errors import UserError
from gpt2_jittor.hub import NANO, locate

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKENIZER = {"vocab.json": b"{}", "merges.txt": b"#version: 0.2\n"}
MODEL = {"config.json": b"{}", "model.safetensors": b"weights", **TOKENIZER}


class Hub(http.server.ThreadingHTTPServer):
    """Serves `files` (repository -> name -> bytes) at the hub's addresses and remembers what was fetched."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.requests: list[tuple[str, str]] = []
        self.plain = False  # a mirror that answers 404 without saying what is missing
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def fetched(self):
        return sorted(path.split("/resolve/main/")[1] for method, path in self.requests if method == "GET")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.server.requests.append((self.command, self.path))
        repository, _, name = self.path[1:].partition("/resolve/main/")
        files = self.server.files.get(repository)
        if files is None or name not in files:
            self.send_response(404)
            if not self.server.plain:
                self.send_header("X-Error-Code", "RepoNotFound" if files is None else "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.send_response(200)
        self.send_header("ETag", f'"{name.replace("/", "-")}-{len(files[name])}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(files[name])))
        self.end_headers()
        return files[name]

    def do_GET(self):
        content = self.do_HEAD()
        if content is not None:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_with_a_config_is_its_own_place(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert locate(tmp_path) == locate(str(tmp_path)) == tmp_path


def test_a_folder_named_like_a_preset_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("gpt2").mkdir()
    Path("gpt2", "config.json").write_text("{}")
    assert locate("gpt2") == Path("gpt2")


def test_nano_is_the_model_in_the_repository():
    assert locate("nano") == NANO


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "has no config.json"),
        ("adapter_config.json", "holds an adapter, not a model: give it as --adapter"),
    ],
)
def test_a_folder_without_a_config_is_refused(tmp_path, content, reason):
    if content:
        (tmp_path / content).write_text("{}")
    with pytest.raises(UserError, match=reason):
        locate(tmp_path)


def test_a_file_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(UserError, match="is a file: give the folder"):
        locate(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("gpt2-midium", "gpt2-medium"),
        ("gpt-2", "gpt2"),
        ("DialoGPT-small", "microsoft/DialoGPT-small"),
        ("nan", "nano"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(UserError, match=f"no folder {name}, .* did you mean {nearest}\\?"):
        locate(name)


@pytest.mark.parametrize("name", ["", "./no/such", "/no/such", "a/b/c", "../x", "a b/c"])
def test_a_path_that_is_not_there_is_no_hub_id(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no folder|no config.json"):
        locate(name)


@pytest.mark.parametrize("plain", [False, True], ids=["hub", "plain mirror"])
def test_only_what_is_needed_is_downloaded(hub, plain):
    hub.plain = plain
    unwanted = ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx", "README.md")
    hub.files["someone/small"] = MODEL | dict.fromkeys(unwanted, b"large")
    folder = locate("someone/small")
    assert names(folder) == hub.fetched() == sorted(MODEL)
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_a_preset_comes_from_its_organisation(hub, tmp_path):
    hub.files["openai-community/gpt2"] = MODEL
    assert locate("gpt2") == tmp_path / "home/hub/models--openai-community--gpt2/snapshots" / COMMIT


def test_pickled_weights_are_fetched_where_there_is_nothing_better(hub):
    files = {"config.json": b"{}", "pytorch_model.bin": b"weights", "tokenizer.json": b"{}"}
    hub.files["microsoft/DialoGPT-small"] = files
    assert names(locate("microsoft/DialoGPT-small")) == sorted(files)


@pytest.mark.parametrize(("stem", "suffix"), [("model", "safetensors"), ("pytorch_model", "bin")])
def test_every_part_of_a_large_model_is_fetched(hub, stem, suffix):
    parts = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    index = json.dumps({"weight_map": {"a": parts[0], "b": parts[1], "c": parts[0]}}).encode()
    hub.files["someone/large"] = {"config.json": b"{}", f"{stem}.{suffix}.index.json": index, **TOKENIZER}
    hub.files["someone/large"] |= dict.fromkeys(parts, b"weights")
    assert set(parts) <= set(names(locate("someone/large")))


def test_what_is_cached_needs_no_network(hub, monkeypatch):
    hub.files["openai-community/gpt2"] = MODEL
    folder = locate("gpt2")
    hub.requests.clear()
    assert locate("gpt2") == locate("openai-community/gpt2") == folder
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert locate("gpt2") == folder
    assert hub.requests == []


def test_a_cache_from_before_the_organisations_is_used(hub):
    home = Path(os.environ["HF_HOME"]) / "hub" / "models--gpt2"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name, content in MODEL.items():
        (snapshot / name).write_bytes(content)
    assert locate("gpt2") == snapshot
    assert hub.requests == []


@pytest.mark.parametrize("lost", ["model.safetensors", "merges.txt"])
def test_a_download_that_ended_early_is_completed(hub, lost):
    hub.files["someone/small"] = MODEL
    folder = locate("someone/small")
    (folder / lost).unlink()
    assert names(locate("someone/small")) == sorted(MODEL)


def test_the_cache_follows_the_environment_of_the_call(hub, tmp_path, monkeypatch):
    hub.files["someone/small"] = MODEL
    for place in ("one", "two"):
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / place))
        assert locate("someone/small").is_relative_to(tmp_path / place)


def test_a_model_that_the_hub_does_not_have_is_said_so(hub):
    with pytest.raises(UserError, match=f"{hub.endpoint} has no model microsoft/DialogGPT-small, .*DialoGPT-small"):
        locate("microsoft/DialogGPT-small")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"README.md": b""}, "has no config.json for someone/odd"),
        ({"config.json": b"{}", "tf_model.h5": b""}, "no weights in safetensors or PyTorch's format"),
    ],
)
def test_a_repository_without_a_model_is_said_so(hub, files, reason):
    hub.files["someone/odd"] = files
    with pytest.raises(UserError, match=reason):
        locate("someone/odd")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("HF_HUB_OFFLINE", "1", "HF_HUB_OFFLINE forbids a download"),
        ("HF_ENDPOINT", "http://127.0.0.1:9", "http://127.0.0.1:9 cannot be read ([Errno"),
    ],
)
def test_without_cache_or_network_the_error_is_one_line_and_quick(tmp_path, name, value, reason):
    """In a process of its own: the hub's library reads part of the environment at its import."""
    command = [sys.executable, "-c", "from gpt2_jittor.hub import locate; locate('gpt2')"]
    environment = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1", name: value}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=15, check=False)
    line = run.stderr.strip().splitlines()[-1]
    assert "UserError: openai-community/gpt2 is neither a folder here nor in the cache" in line
    assert str(tmp_path / "hub") in line and reason in line
    assert "hf download openai-community/gpt2 --local-dir" in line
