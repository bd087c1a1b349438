"""Downloads, from a server on this machine that answers as the hub does."""

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hub_server import COMMIT, CUT, Hub, settings_for
from places import ROOT

import common.hub
from common.errors import UserError
from common.hub import fetch

DATA = bytes(range(250)) * 240  # three times CUT


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one repository, as a model's and as a data set's alike; `content` is what it holds."""
    with Hub() as hub:
        hub.content = hub.files["owner/set"] = hub.files["datasets/owner/set"] = {}
        settings_for(hub, monkeypatch, str(tmp_path / "home"))
        yield hub


def get(name: str, cache: Path, repo_id: str = "owner/set", repo_type: str = "dataset") -> bytes:
    return fetch(repo_id, name, repo_type=repo_type, cache_dir=cache).read_bytes()


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_symlink() or "blobs" in path.parts[:-1]]


def start(script: str, **settings: str) -> subprocess.Popen:
    """Runs a script in a process of its own: the hub's client reads part of the environment at its import."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | settings
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, **pipes)


def test_a_file_is_downloaded_once_and_then_comes_from_the_cache(hub, tmp_path):
    hub.content["train.zip"], hub.content["config.json"], hub.content["empty.txt"] = DATA, b"{}", b""
    for _ in range(2):
        assert get("train.zip", tmp_path) == DATA
        assert get("config.json", tmp_path) == b"{}"
        assert get("empty.txt", tmp_path) == b""
    assert hub.sent == ["train.zip", "config.json"]


def test_the_hubs_own_client_finds_what_was_fetched(hub, tmp_path):
    from huggingface_hub import hf_hub_download

    hub.content["train.zip"] = DATA
    path = fetch("owner/set", "train.zip", "dataset", tmp_path)
    options = {"repo_type": "dataset", "cache_dir": tmp_path, "local_files_only": True}
    assert hf_hub_download("owner/set", "train.zip", **options) == str(path)
    assert path.parent == tmp_path / "datasets--owner--set" / "snapshots" / COMMIT


def test_a_new_version_is_fetched_and_the_old_one_serves_where_it_cannot_be_had(hub, tmp_path):
    hub.content["train.zip"] = b"old"
    assert get("train.zip", tmp_path) == b"old"
    hub.content["train.zip"], hub.headers["X-Repo-Commit"] = b"new", COMMIT[::-1]
    hub.cuts = ["refused"] * common.hub.TRIES
    assert get("train.zip", tmp_path) == b"old"
    assert get("train.zip", tmp_path) == b"new"


@pytest.mark.parametrize("repo_type", ["dataset", "model"])
@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_download_that_is_cut_is_gone_on_with_in_the_same_call(hub, tmp_path, how, repo_type):
    faults = ["refused"] * (common.hub.TRIES - 1) + [how]
    hub.content["data.bin"], hub.cuts = DATA, faults * 2
    assert get("data.bin", tmp_path, repo_type=repo_type) == DATA
    assert hub.ranges == [None] * len(faults) + [f"bytes={CUT}-"] * len(faults) + [f"bytes={2 * CUT}-"]


def test_after_a_network_that_stays_away_the_next_call_goes_on(hub, tmp_path):
    hub.content["train.zip"], hub.cuts = DATA, ["closed"] + ["refused"] * common.hub.TRIES
    with pytest.raises(UserError, match=r"cannot get train\.zip from .*peer closed connection.*data_dir"):
        get("train.zip", tmp_path)
    hub.requests.clear()
    assert get("train.zip", tmp_path) == DATA
    assert hub.ranges == [f"bytes={CUT}-"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_after_a_run_that_was_stopped_the_next_one_goes_on(hub, tmp_path, how):
    hub.content["train.zip"], hub.cuts = DATA, ["stalled"]
    run = start("from common.hub import fetch; fetch('owner/set', 'train.zip', 'dataset')", HF_HOME=str(tmp_path))
    until = time.monotonic() + 30
    while not any(part.stat().st_size for part in tmp_path.rglob("*.incomplete")):
        assert run.poll() is None and time.monotonic() < until, run.communicate()[1]
        time.sleep(0.02)
    run.send_signal(how)
    run.communicate(timeout=20)
    hub.requests.clear()
    assert get("train.zip", tmp_path / "hub") == DATA
    (asked,) = hub.ranges
    assert 0 < int(asked.removeprefix("bytes=").removesuffix("-")) <= CUT


def test_a_server_that_sends_everything_again_is_understood(hub, tmp_path):
    hub.content["train.zip"], hub.cuts, hub.knows_ranges = DATA, ["closed"], False
    assert get("train.zip", tmp_path) == DATA
    assert hub.ranges == [None, f"bytes={CUT}-"]


def test_two_at_once_download_a_file_once(hub, tmp_path):
    hub.content["train.zip"] = DATA
    threads = [threading.Thread(target=get, args=("train.zip", tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hub.sent == ["train.zip"]


@pytest.mark.parametrize("repo_type", ["dataset", "model"])
@pytest.mark.parametrize("name", ["data.bin", "config.json"], ids=["SHA-256", "SHA-1"])
def test_a_file_with_a_wrong_checksum_is_refused_and_removed_and_a_second_try_can_succeed(
    hub, tmp_path, name, repo_type
):
    hub.content["data.bin"], hub.content["config.json"] = b"right", b"right"
    hub.tampered = {name: b"wrong"}
    with pytest.raises(UserError, match=f"owner/set/{name} arrived damaged .checksum .* was removed: try again"):
        get(name, tmp_path, repo_type=repo_type)
    assert files(tmp_path) == []
    hub.tampered = {}
    assert get(name, tmp_path, repo_type=repo_type) == b"right"


def test_what_a_cut_left_behind_is_checked_with_the_rest(hub, tmp_path):
    hub.content["train.zip"], hub.tampered["train.zip"] = DATA, DATA[::-1]
    hub.cuts = ["closed"] + ["refused"] * common.hub.TRIES
    for reason in ("cannot get", "arrived damaged"):
        with pytest.raises(UserError, match=reason):
            get("train.zip", tmp_path)
        hub.tampered = {}
    assert files(tmp_path) == []
    assert get("train.zip", tmp_path) == DATA


def test_a_file_of_the_wrong_size_is_refused(hub, tmp_path):
    hub.content["train.zip"], hub.tampered["train.zip"] = DATA, DATA[:-1]
    with pytest.raises(UserError, match=rf"arrived damaged \({len(DATA) - 1} bytes, not {len(DATA)}\)"):
        get("train.zip", tmp_path)
    assert files(tmp_path) == []


def tensors(seed: int = 0) -> bytes:
    return safetensors.numpy.save({"a": np.random.default_rng(seed).random(5000, np.float32)})


def zipped() -> bytes:
    with zipfile.ZipFile(target := io.BytesIO(), "w") as archive:
        archive.writestr("a.txt", DATA)
    return target.getvalue()


CONTENTS = {
    "config.json": b'{"n_layer": 2}',
    "train.zip": zipped(),
    "pytorch_model.bin": zipped(),
    "model.safetensors": tensors(),
    "data.parquet": b"PAR1" + DATA + b"PAR1",
    "data.jsonl.gz": DATA,
}
CUTS = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "cut by a byte": lambda whole: whole[:-1],
    "emptied": lambda whole: b"",
}
DAMAGES = CUTS | {
    "changed": lambda whole: whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:],
    "longer": lambda whole: whole + b"more",
    "gone": None,
}


def blob_of(cache: Path, name: str) -> Path:
    (link,) = cache.rglob(f"snapshots/*/{name}")
    return link.resolve()


def damage(blob: Path, how) -> None:
    if how is None:
        blob.unlink()
    else:
        blob.write_bytes(how(blob.read_bytes()))


@pytest.mark.parametrize("hashed", [common.hub.HASHED, 8], ids=["small", "large"])
@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("how", DAMAGES)
def test_what_was_damaged_in_the_cache_is_fetched_again_and_never_served(hub, tmp_path, monkeypatch, name, how, hashed):
    if how == "changed" and hashed == 8 and Path(name).suffix in (".zip", ".bin", ".safetensors", ".parquet"):
        pytest.skip("of large files of these formats only the ends are looked at")
    if how == "longer" and hashed == 8 and Path(name).suffix in (".zip", ".bin"):
        pytest.skip("what follows a zip harms nobody")
    monkeypatch.setattr(common.hub, "HASHED", hashed)
    hub.content[name] = CONTENTS[name]
    assert get(name, tmp_path) == CONTENTS[name]
    blob = blob_of(tmp_path, name)
    damage(blob, DAMAGES[how])
    with monkeypatch.context() as away:
        away.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(UserError, match=rf"{name}.*(is damaged \(|is not in the cache).*HF_HUB_OFFLINE") as caught:
            get(name, tmp_path)
        assert ("is damaged (" in str(caught.value)) == (how != "gone") and "data_dir" in str(caught.value)
    hub.cuts = ["refused"] * common.hub.TRIES if name.endswith((".zip", ".bin", ".safetensors")) else []
    if hub.cuts:  # on a network that is away, too
        with pytest.raises(UserError, match=f"cannot get {name}"):
            get(name, tmp_path)
    assert get(name, tmp_path) == CONTENTS[name] == blob.read_bytes()
    assert hub.sent == [name, name]
    assert get(name, tmp_path) == CONTENTS[name] and len(hub.sent) == 2


def test_a_mirror_without_hashes_is_believed_but_for_the_size(hub, tmp_path):
    hub.plain, hub.content["config.json"] = True, b'{"n_layer": 2}'
    for _ in range(2):
        assert get("config.json", tmp_path) == hub.content["config.json"]
    damage(blob_of(tmp_path, "config.json"), CUTS["cut"])
    assert get("config.json", tmp_path) == hub.content["config.json"]


def test_pickles_are_stored_and_never_opened(hub, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    hub.content["pytorch_model.bin"] = pickle.dumps(Trap())
    assert get("pytorch_model.bin", tmp_path / "cache", repo_type="model") == hub.content["pytorch_model.bin"]
    assert not (tmp_path / "sprung").exists()


def test_a_token_is_told_to_the_hub_alone(hub, tmp_path, monkeypatch):
    hub.content["train.zip"] = DATA
    monkeypatch.setenv("HF_TOKEN", "secret")
    get("train.zip", tmp_path)
    assert hub.logins == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("repo_id", "reason", "missing"),
    [
        ("owner/set", "the repository has no such file", "file"),
        ("owner/other", "there is no such repository", "repository"),
        ("not/a/name", "Repo id must", "network"),
    ],
)
def test_what_the_hub_does_not_have_is_named_with_where_it_was_looked_for(hub, tmp_path, repo_id, reason, missing):
    with pytest.raises(common.hub.HubError) as caught:
        get("absent.zip", tmp_path, repo_id)
    assert f"cannot get absent.zip from {hub.endpoint} (dataset {repo_id}): {reason}" in str(caught.value)
    assert "data_dir" in str(caught.value)
    assert caught.value.missing == missing


@pytest.mark.parametrize("headers", [{}, {"X-Repo-Commit": COMMIT, "X-Linked-Etag": '"../../../sprung"'}])
def test_a_server_that_is_no_hub_is_called_that(hub, tmp_path, headers):
    hub.content["config.json"], hub.headers = b"{}", headers
    with pytest.raises(UserError, match="what answered is not a hub"):
        get("config.json", tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize("address", ["hf-mirror.com", "http://[::1", "http://127.0.0.1:99999", "ftp://x", "http://"])
def test_an_endpoint_that_is_no_address_is_refused(tmp_path, monkeypatch, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(UserError, match="is no address: give one such as https://huggingface.co"):
        get("config.json", tmp_path)


def test_without_a_network_the_cache_serves_and_what_it_lacks_is_refused_at_once(hub, tmp_path):
    hub.content["train.zip"] = b"large"
    get("train.zip", tmp_path)
    hub.server.shutdown()
    hub.server.server_close()
    assert get("train.zip", tmp_path) == b"large"
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"cannot get test\.zip from http://127\.0\.0\.1.*data_dir"):
        get("test.zip", tmp_path)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "it is not in the cache {cache}, and HF_HUB_OFFLINE forbids a download"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "(dataset owner/set): [Errno 111] Connection refused"),
    ],
    ids=["forbidden", "nothing listens"],
)
def test_offline_the_cache_serves_and_what_it_lacks_is_one_line_within_seconds(hub, tmp_path, setting, reason):
    hub.content["train.zip"] = b"large"
    script = (
        "from common.hub import fetch\n"
        "from common.errors import UserError\n"
        "for name in ['train.zip', 'test.zip']:\n"
        "    try: print(fetch('owner/set', name, repo_type='dataset'))\n"
        "    except UserError as error: print(error)\n"
    )

    def lines(**settings: str) -> list[str]:
        run = start(script, HF_HOME=str(tmp_path), **settings)
        out, problems = run.communicate(timeout=15)
        assert (run.returncode, problems) == (0, "")
        return out.splitlines()

    online = lines()
    cache = tmp_path / "hub"
    assert online[0] == str(cache / "datasets--owner--set" / "snapshots" / COMMIT / "train.zip")
    offline = lines(**setting)
    assert offline[0] == online[0]
    assert offline[1].startswith("cannot get test.zip from ") and reason.format(cache=cache) in offline[1]
    assert len(offline) == 2 and hub.sent == ["train.zip"]


def test_a_setting_made_while_the_program_runs_is_honoured(hub, tmp_path, monkeypatch):
    hub.content["train.zip"] = b"large"
    for place in ("one", "two"):
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / place))
        assert fetch("owner/set", "train.zip", "dataset").is_relative_to(tmp_path / place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids"):
        fetch("owner/set", "test.zip", "dataset")


def test_the_hubs_client_is_imported_only_for_a_download():
    script = "import sys, common.hub, gpt2_jittor.checkpoint.locate; sys.exit('huggingface_hub' in sys.modules)"
    run = start(script)
    assert run.communicate(timeout=60)[1] == "" and run.returncode == 0
