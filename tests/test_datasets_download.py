"""Downloads, from a server on this machine that answers as the hub does."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.errors import UserError
from datasets.download import fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).parents[1]


class Hub:
    """`large` files are redirected to another address and named by SHA-256, `small` ones by git's SHA-1.

    `tampered` holds what is sent instead of the right bytes; `sent` lists the files that were sent.
    """

    def __init__(self):
        self.large: dict[str, bytes] = {}
        self.small: dict[str, bytes] = {}
        self.tampered: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.headers = {"X-Repo-Commit": COMMIT}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                hub.answer(self)

            def do_GET(self):
                body = hub.answer(self)
                self.wfile.write(body)
                hub.sent += [self.path.rpartition("/")[2]] if body else []

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.storage = self.address.replace("127.0.0.1", "localhost")  # another host, as the hub's is
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request) -> bytes:
        name = request.path.rpartition("/")[2]
        headers, status, body = dict(self.headers), 200, b""
        if request.path.startswith("/cdn/"):
            body = self.tampered.get(name, self.large[name])
        elif not request.path.startswith("/datasets/owner/set/resolve/main/"):
            status, headers["X-Error-Code"] = 404, "RepoNotFound"
        elif name in self.large:
            status, headers["Location"] = 302, f"{self.storage}/cdn/{name}"
            headers["X-Linked-Size"] = str(len(self.large[name]))
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(self.large[name]).hexdigest()}"'
        elif name in self.small:
            body, right = self.tampered.get(name, self.small[name]), self.small[name]
            headers["ETag"] = f'"{hashlib.sha1(b"blob %d" % len(right) + bytes(1) + right).hexdigest()}"'
        else:
            status, headers["X-Error-Code"] = 404, "EntryNotFound"
        request.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            request.send_header(key, value)
        request.end_headers()
        return body

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    yield hub
    hub.stop()


def get(name: str, cache: Path, repo_id: str = "owner/set") -> bytes:
    return fetch(repo_id, name, repo_type="dataset", cache_dir=cache).read_bytes()


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_symlink() or "blobs" in path.parts[:-1]]


def test_a_file_is_downloaded_once_and_then_comes_from_the_cache(hub, tmp_path):
    hub.large["train.zip"], hub.small["config.json"] = b"large" * 1000, b"{}"
    for _ in range(2):
        assert get("train.zip", tmp_path) == b"large" * 1000
        assert get("config.json", tmp_path) == b"{}"
    assert hub.sent == ["train.zip", "config.json"]


def test_a_file_with_a_wrong_checksum_is_refused_and_removed_and_a_second_try_can_succeed(hub, tmp_path):
    hub.large["train.zip"], hub.small["config.json"] = b"right", b"[1]"
    hub.tampered = {"train.zip": b"wrong", "config.json": b"[2]"}
    for name in hub.tampered:
        with pytest.raises(UserError, match=f"owner/set/{name} arrived damaged .* was removed: try again"):
            get(name, tmp_path)
    assert files(tmp_path) == []
    hub.tampered = {}
    assert (get("train.zip", tmp_path), get("config.json", tmp_path)) == (b"right", b"[1]")


@pytest.mark.parametrize(
    ("repo_id", "reason"),
    [
        ("owner/set", "the repository has no such file"),
        ("owner/other", "there is no such repository"),
        ("not/a/name", "Repo id must"),
    ],
)
def test_what_the_hub_does_not_have_is_named_with_where_it_was_looked_for(hub, tmp_path, repo_id, reason):
    with pytest.raises(UserError) as caught:
        get("absent.zip", tmp_path, repo_id)
    assert f"cannot get absent.zip from {hub.address} (dataset {repo_id}): {reason}" in str(caught.value)
    assert "--data-dir" in str(caught.value)


def test_a_server_that_is_no_hub_is_called_that(hub, tmp_path):
    hub.small["config.json"], hub.headers = b"{}", {}
    with pytest.raises(UserError, match="what answered is not a hub"):
        get("config.json", tmp_path)


def test_without_a_network_the_cache_serves_and_what_it_lacks_is_refused_at_once(hub, tmp_path):
    hub.large["train.zip"] = b"large"
    get("train.zip", tmp_path)
    hub.stop()
    assert get("train.zip", tmp_path) == b"large"
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"cannot get test\.zip from http://127\.0\.0\.1.*--data-dir"):
        get("test.zip", tmp_path)
    assert time.monotonic() - begin < 5


def test_the_hubs_own_settings_for_its_cache_and_for_offline_work_are_honoured(hub, tmp_path):
    hub.large["train.zip"] = b"large"
    script = (
        "from datasets.download import fetch\n"
        "from common.errors import UserError\n"
        "for name in ['train.zip', 'test.zip']:\n"
        "    try: print(fetch('owner/set', name, repo_type='dataset'))\n"
        "    except UserError as error: print(error)\n"
    )

    def lines(**settings: str) -> list[str]:
        environment = os.environ | {"HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)} | settings
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    online = lines()
    assert online[0].startswith(str(tmp_path / "hub"))
    asked = len(hub.sent)
    offline = lines(HF_HUB_OFFLINE="1")
    assert offline[0] == online[0]
    assert "offline" in offline[1]
    assert len(hub.sent) == asked
