"""Finding a model: folders, names, the hub's cache, and a download from a hub that runs inside the test."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import COMMIT, CUT, Hub, settings_for
from places import ROOT

from common.errors import UserError
from common.hub import fetch
from gpt2_jittor.checkpoint.locate import NANO, locate
from gpt2_jittor.checkpoint.weights import read_tensors

TOKENIZER = {"vocab.json": b'{"a": 0}', "merges.txt": b"#version: 0.2\n"}
MODEL = {"config.json": b"{}", "model.safetensors": b"weights", **TOKENIZER}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with Hub() as hub:
        settings_for(hub, monkeypatch, str(tmp_path / "home"))
        yield hub


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
        ("adapter_config.json", "holds an adapter, not a model: give it as adapter"),
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
    assert names(folder) == sorted(hub.sent) == sorted(MODEL)
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


@pytest.mark.parametrize("indexed", [False, True], ids=["one file of weights", "an index and parts"])
def test_a_model_of_which_a_file_was_cut_in_the_cache_is_fetched_again_or_told_of(hub, monkeypatch, indexed):
    files = dict(MODEL) | {"generation_config.json": b'{"eos_token_id": 0}'}
    if indexed:
        del files["model.safetensors"]
        part = "model-00001-of-00001.safetensors"
        files |= {part: b"weights", "model.safetensors.index.json": json.dumps({"weight_map": {"a": part}}).encode()}
    hub.files["someone/small"] = files
    folder = locate("someone/small")
    for name, whole in files.items():
        blob = (folder / name).resolve()
        blob.write_bytes(whole[: len(whole) // 2])
        hub.sent.clear()
        with monkeypatch.context() as away:
            away.setenv("HF_HUB_OFFLINE", "1")
            with pytest.raises(UserError, match=f"{folder / name} is damaged .* HF_HUB_OFFLINE forbids a download"):
                locate("someone/small")
        assert locate("someone/small") == folder and hub.sent == [name]
        assert blob.read_bytes() == whole


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


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_weights_with_a_wrong_checksum_are_refused_and_a_second_try_can_succeed(hub, weights):
    hub.files["someone/small"] = {"config.json": b"{}", weights: b"weights", **TOKENIZER}
    hub.tampered = {weights: b"w3ights"}
    with pytest.raises(UserError, match=f"someone/small/{weights} arrived damaged .* was removed: try again, or give"):
        locate("someone/small")
    assert b"w3ights" not in {path.read_bytes() for path in Path(os.environ["HF_HOME"]).rglob("*") if path.is_file()}
    hub.tampered = {}
    assert (locate("someone/small") / weights).read_bytes() == b"weights"


def test_a_download_of_weights_that_is_cut_is_gone_on_with(hub):
    hub.files["someone/small"] = MODEL | {"model.safetensors": b"weights" * CUT}
    hub.cuts = ["closed", "reset"]
    folder = locate("someone/small")
    assert (folder / "model.safetensors").read_bytes() == b"weights" * CUT
    assert [asked for asked in hub.ranges if asked] == [f"bytes={CUT}-", f"bytes={2 * CUT}-"]


def test_weights_that_would_run_code_are_fetched_and_refused(hub, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    files = {"config.json": b"{}", "pytorch_model.bin": pickle.dumps(Trap()), **TOKENIZER}
    hub.files["someone/bad"] = files
    with pytest.raises(UserError):
        list(read_tensors(locate("someone/bad")))
    assert not (tmp_path / "sprung").exists()


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


def test_a_damaged_name_of_the_newest_version_is_fetched_again_or_told_offline(hub, monkeypatch):
    hub.files["owner/model"] = dict(MODEL)
    snapshot = locate("owner/model")
    ref = snapshot.parents[1] / "refs" / "main"
    ref.write_bytes(b"\xff\xfe\x00\x80")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids a download"):
        locate("owner/model")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids a download"):
        fetch("owner/model", "config.json")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert locate("owner/model") == snapshot and ref.read_text() == COMMIT


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("HF_HUB_OFFLINE", "1", "HF_HUB_OFFLINE forbids a download"),
        ("HF_ENDPOINT", "http://127.0.0.1:9", "http://127.0.0.1:9 cannot be read ([Errno"),
    ],
)
def test_without_cache_or_network_the_error_is_one_line_and_quick(tmp_path, name, value, reason):
    """In a process of its own: the hub's library reads part of the environment at its import."""
    command = [sys.executable, "-c", "from gpt2_jittor.checkpoint.locate import locate; locate('gpt2')"]
    environment = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1", name: value}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=15, check=False)
    line = run.stderr.strip().splitlines()[-1]
    assert "UserError: openai-community/gpt2 is neither a folder here nor in the cache" in line
    assert str(tmp_path / "hub") in line and reason in line
    assert "hf download openai-community/gpt2 --local-dir" in line
