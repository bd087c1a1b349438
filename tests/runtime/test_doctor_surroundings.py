"""The doctor's rows about room and hub, on made-up machines."""

import http.server
import os
import shutil
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpt2_jittor.doctor import row, surroundings


@pytest.mark.parametrize(("free", "status"), [(50e9, "ok"), (1.9e9, "warning"), (0.4e9, "failed")])
def test_little_room_warns_and_none_fails(monkeypatch, tmp_path, free, status):
    monkeypatch.setattr(surroundings, "jittor_cache", lambda: tmp_path / "not" / "yet")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    assert surroundings.disk().status == status
    assert str(tmp_path) in surroundings.disk().found


def test_a_cache_that_cannot_be_written_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(surroundings, "jittor_cache", lambda: tmp_path)
    monkeypatch.setattr(os, "access", lambda folder, mode: folder != tmp_path)
    assert surroundings.disk().status == "failed" and f"{tmp_path} cannot be written" in surroundings.disk().found


@pytest.mark.parametrize(("pages", "status"), [(1_000_000, "ok"), (300_000, "warning"), (100_000, "failed")])
def test_little_memory_warns_and_none_fails(monkeypatch, pages, status):
    monkeypatch.setattr(os, "sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else pages)
    monkeypatch.setattr(Path, "read_text", lambda self: "MemAvailable:   64000000 kB" if "proc" in str(self) else "max")
    assert surroundings.memory().status == status


def test_the_cache_is_where_jittor_remembers_it(monkeypatch, tmp_path):
    monkeypatch.delenv("JITTOR_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert row.jittor_cache() == tmp_path / ".cache" / "jittor"
    (tmp_path / ".cache" / "jittor").mkdir(parents=True)
    (tmp_path / ".cache" / "jittor" / "config.json").write_text('{"JITTOR_HOME": "/remembered"}')
    assert row.jittor_cache() == Path("/remembered/.cache/jittor")
    monkeypatch.setenv("JITTOR_HOME", "/given")
    assert row.jittor_cache() == Path("/given/.cache/jittor")


class Answer(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize(("status", "expected"), [(200, "ok"), (404, "ok"), (503, "warning")])
def test_a_hub_that_answers_is_reachable_unless_it_is_broken(monkeypatch, no_proxy, status, expected):
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        server.status = status
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        told = surroundings.hub()
        server.shutdown()
    assert told.status == expected


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "huggingface.co", "silent"])
def test_no_hub_is_a_warning_for_everything_else_works_offline(monkeypatch, no_proxy, endpoint):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes a call and says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}" if endpoint == "silent" else endpoint
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr(surroundings, "HUB_SECONDS", 0.2)
        told = surroundings.hub()
    assert told.status == "warning" and address in told.found and "--model nano" in told.mend


def test_a_name_server_that_does_not_answer_does_not_hold_the_doctor(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(surroundings, "_unreachable", lambda address: released.wait(60))
    monkeypatch.setattr(surroundings, "HUB_SECONDS", -0.9)
    assert "no answer" in surroundings.hub().found
    released.set()
