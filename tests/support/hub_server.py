"""A server on this machine that answers as the Hugging Face hub does, and fails as networks do."""

import gzip
import hashlib
import os
import socket
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
from places import ROOT

from common.hub import fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CUT = 20_000  # bytes of a file before a cut; they fit into a socket's buffer
LARGE = (".bin", ".safetensors", ".zip")


class Hub:
    """Serves `files`: repository ("owner/model" or "datasets/owner/set") -> name -> bytes.

    LARGE files are redirected to another host and named by their SHA-256, others by git's SHA-1. All are
    compressed for clients that would have it so.

    What happens: `requests` lists (method, path, Range), `sent` the names of the files that were sent to their
    end, `logins` the hosts that were told a token. What goes wrong: `tampered` (name -> bytes) is sent instead
    of the right bytes; the next LARGE files end as `cuts` says: after CUT bytes "closed", "reset" or "stalled"
    till the end of the test, or "refused" before the first.
    """

    def __init__(self):
        self.files: dict[str, dict[str, bytes]] = {}
        self.tampered: dict[str, bytes] = {}
        self.cuts: list[str] = []
        self.plain = False  # a mirror that names no file by its hash and does not say what is missing
        self.knows_ranges = True
        self.headers = {"X-Repo-Commit": COMMIT}  # of every answer
        self.requests: list[tuple[str, str, str | None]] = []
        self.sent: list[str] = []
        self.logins: set[str] = set()
        self.stopped = threading.Event()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.storage = self.endpoint.replace("127.0.0.1", "localhost")  # another host, as the hub's is

    @property
    def ranges(self) -> list[str | None]:
        """What was asked for of LARGE files' bytes."""
        return [asked for method, path, asked in self.requests if method == "GET" and path.startswith("/cdn/")]

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def shutdown_request(self, request):  # the base class would say FIN, where a test wants RST
        request.close()


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        name, body = self.path.rpartition("/")[2], self.answer()
        hub = self.server.hub
        if body and hub.cuts and name.endswith(LARGE):
            self.cut(hub.cuts.pop(0), body)
        elif body:
            self.wfile.write(body[:-1])
            hub.sent.append(name)  # before who waits for the last byte can look
            self.wfile.write(body[-1:])

    def cut(self, how: str, body: bytes):
        self.wfile.write(body[: 0 if how == "refused" else CUT])
        if how == "stalled":
            self.server.hub.stopped.wait()
        if how == "reset":  # to close without lingering sends RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def answer(self) -> bytes:
        hub, asked = self.server.hub, self.headers["Range"]
        hub.requests.append((self.command, self.path, asked))
        if "Authorization" in self.headers:
            hub.logins.add(self.headers["Host"].partition(":")[0])
        stored = self.path.startswith("/cdn/")
        repository, _, name = self.path.removeprefix("/cdn")[1:].partition("/resolve/main/")
        files = hub.files.get(repository)
        if files is None or name not in files:
            missing = "RepoNotFound" if files is None else "EntryNotFound"
            return self.respond(404, b"", {} if hub.plain else {"X-Error-Code": missing})
        right = files[name]
        if name.endswith(LARGE) and not hub.plain and not stored:
            etag, size = f'"{hashlib.sha256(right).hexdigest()}"', str(len(right))
            location = f"{hub.storage}/cdn{self.path}"
            return self.respond(302, b"", {"Location": location, "X-Linked-Etag": etag, "X-Linked-Size": size})
        git = hashlib.sha1(b"blob %d\0" % len(right) + right).hexdigest()
        etag = f"{len(right)}-{name.replace('/', '-')}" if hub.plain else git
        headers, body = {"ETag": f'"{etag}"'}, hub.tampered.get(name, right)
        if self.command == "GET" and "gzip" in self.headers["Accept-Encoding"]:
            headers["Content-Encoding"], body = "gzip", gzip.compress(body)
        if asked and hub.knows_ranges:
            return self.respond(206, body[int(asked.removeprefix("bytes=").removesuffix("-")) :], headers)
        return self.respond(200, body, headers)

    def respond(self, status: int, body: bytes, headers: dict[str, str]) -> bytes:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))} | self.server.hub.headers).items():
            self.send_header(key, value)
        self.end_headers()
        return body

    def log_message(self, *_):
        pass


def settings_for(hub: Hub, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    """The environment of a process whose hub this is, and whose cache is under `home`."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_HOME", home)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr("common.hub.PAUSE", 0.01)


def get(name: str, cache: Path, repo_id: str = "owner/set", repo_type: str = "dataset") -> bytes:
    """A file of the repository, fetched by us."""
    return fetch(repo_id, name, repo_type=repo_type, cache_dir=cache).read_bytes()


def start(script: str, **settings: str) -> subprocess.Popen:
    """Runs a script in a process of its own: the hub's client reads part of the environment at its import."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | settings
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, **pipes)
