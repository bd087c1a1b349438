"""`serve.py` under load and before clients that do wrong: the right status, no traceback, and the next is answered."""

import concurrent.futures
import json
import signal
import socket
import threading
import time

import httpx
import openai
import pytest
from real_server import RealServer

pytestmark = pytest.mark.clients
LONG = 480  # tokens of an answer that takes a while
ENDLESS = {"logit_bias": {"0": -100}, "temperature": 1, "seed": 3}  # never the end token
KEY = "a secret"


@pytest.fixture
def http(real):
    with httpx.Client(base_url=real.address, timeout=120) as client:
        yield client


@pytest.fixture
def answers(http):
    """After the test the server must answer as before it, with nothing left that runs."""
    yield
    deadline = time.monotonic() + 30
    while figure(http, "running") or figure(http, "waiting"):
        assert time.monotonic() < deadline, "work of clients that are gone goes on"
        time.sleep(0.1)
    given = {"model": "nano", "prompt": "We like", "max_tokens": 2}
    assert http.post("/v1/completions", json=given).status_code == 200


def figure(http, name: str) -> float:
    """One of the server's figures."""
    lines = http.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"gpt2_jittor_{name} "))


def long_answer(model: str = "nano", **more) -> dict:
    return {"model": model, "prompt": "We like", "max_tokens": LONG, "stream": True, **ENDLESS, **more}


def test_clients_that_vanish_leave_nothing_behind(http, answers):
    begun = figure(http, "generated_tokens_total")
    for model in ("nano", "talker", "reader") * 3:
        with http.stream("POST", "/v1/completions", json=long_answer(model)) as answer:
            assert next(answer.iter_lines()).startswith("data: {")
    assert figure(http, "generated_tokens_total") - begun < 9 * LONG / 2, "nobody waits for the rest"


def test_who_reads_slowly_holds_up_nobody_and_gets_it_all(real, http, answers):
    host, port = real.address.removeprefix("http://").split(":")
    body = json.dumps(long_answer(logprobs=20, n=8)).encode()  # more than sockets hold
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.connect((host, int(port)))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        slow.sendall(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        begun = time.monotonic()
        assert http.post("/v1/completions", json=long_answer(max_tokens=20)).status_code == 200
        quick = time.monotonic() - begun
        time.sleep(3)
        read = b"".join(iter(lambda: slow.recv(1 << 16), b""))
    events = [line for line in read.replace(b"\r\n", b"\n").split(b"\n") if line.startswith(b"data: ")]
    assert events[-1] == b"data: [DONE]" and read.count(b'"finish_reason":"length"') == 8
    assert quick < 20


@pytest.mark.parametrize(
    ("status", "code", "given"),
    [
        (413, "request_too_large", {"content": b'{"model": "nano", "prompt": "' + b"a" * 10_000_000 + b'"}'}),
        (413, "request_too_large", {"content": iter([b" " * 1_000_000] * 10)}),  # in chunks, of no declared length
        (400, None, {"content": b'{"model": "nano", "prompt": "We'}),
        (400, None, {"content": b"[" * 100_000}),
        (400, None, {"content": b'{"model": "nano", "prompt": "\xff"}'}),
        (404, "model_not_found", {"json": {"model": "../../x", "prompt": "We"}}),
        (400, None, {"json": {"model": "nano", "prompt": "We", "max_tokens": 10**30}}),
        (400, None, {"json": {"model": "nano", "prompt": "We", "n": 10**9}}),
        (400, None, {"content": b'{"model": "nano", "prompt": "We", "temperature": NaN}'}),
        (400, None, {"json": {"model": "nano", "prompt": [[0] * 513]}}),
    ],
    ids=["10 MB", "10 MB in chunks", "half", "deep", "bytes", "path", "tokens", "choices", "NaN", "long"],
)
def test_what_is_wrong_is_told(http, answers, status, code, given):
    answer = http.post("/v1/completions", headers={"Content-Type": "application/json"}, **given)
    assert answer.status_code == status
    assert {*answer.json()["error"]} == {"message", "type", "param", "code"}
    assert code is None or answer.json()["error"]["code"] == code


def test_no_path_leads_to_files(http, answers):
    for path in ("/v1/models/../../x", "/v1/models/%2e%2e%2f%2e%2e%2fx", "/../../../etc/passwd", "//etc/passwd"):
        assert http.get(path).status_code == 404
    assert http.post("/v1/adapters", json={"name": "x", "folder": "../../x"}).status_code == 403


def test_sigterm_under_load_lets_answers_finish_and_nobody_in(tmp_path):
    server = RealServer("--model", "nano", GPT2_JITTOR_API_KEY=KEY)
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key" and KEY not in str(caught.value)
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        httpx.Client(base_url=server.address, headers=headers, timeout=60) as http,
        concurrent.futures.ThreadPoolExecutor(8) as threads,
    ):
        begun = threading.Barrier(9)  # all eight have heard something

        def listen(_: int) -> list[str]:
            with http.stream("POST", "/v1/completions", json=long_answer()) as answer:
                lines = answer.iter_lines()
                first = next(lines)
                begun.wait(60)
                return [first, *filter(None, lines)]

        running = [threads.submit(listen, number) for number in range(8)]
        begun.wait(60)
        server.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.HTTPError):
            while (answer := httpx.get(f"{server.address}/v1/models", headers=headers)).status_code == 200:
                time.sleep(0.01)
            assert answer.status_code == 503  # it is let in until the socket is closed
            answer.raise_for_status()
        for each in running:
            lines = each.result()
            assert lines[-1] == "data: [DONE]" and '"finish_reason":"length"' in lines[-2]
    status, said = server.ended()
    assert status == 143 and "Traceback" not in said and "error" not in said
