"""Who may ask, and how every refusal looks."""

import base64
import hashlib
import re

import httpx
import pytest
from asking import Asker, listening

BODY = {"model": "nano", "prompt": "Tea", "max_tokens": 2}
KEY = "a-key-of-many-characters"


def assert_is_error(answer, status: int) -> dict:
    """The API's own form of an error."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY}x", "Bearer é"])
def test_without_the_right_key_nothing_is_answered(computing, header):
    ask = Asker(computing, api_key=KEY)
    headers = {} if header is None else {"Authorization": header.encode()}
    for method, path in (("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/nowhere")):
        error = assert_is_error(ask(method, path, headers=headers), 401)
        assert error["code"] == "invalid_api_key" and KEY not in error["message"]
    assert not computing.tickets
    assert ask("GET", "/health", headers=headers).status_code == ask("GET", "/", headers=headers).status_code == 200


def test_with_the_key_it_is(computing):
    ask = Asker(computing, api_key=KEY)
    assert ask("POST", "/v1/completions", json=BODY, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("127.0.0.1", 200),
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("192.168.0.1:8000", 403),
        ("", 403),
    ],
)
def test_a_page_that_gives_its_name_this_machines_address_is_refused(ask, host, status):
    answer = ask("GET", "/v1/models", headers={"Host": host})
    assert answer.status_code == status
    if status == 403:
        assert assert_is_error(answer, 403)["code"] == "wrong_host"


def test_with_a_key_any_host_may_be_named(computing):
    ask = Asker(computing, api_key=KEY)
    headers = {"Host": "proxy.example", "Authorization": f"Bearer {KEY}"}
    assert ask("GET", "/v1/models", headers=headers).status_code == 200


def test_pages_from_elsewhere_may_ask_only_where_that_was_wanted(computing, ask):
    origin = {"Origin": "https://page.example"}
    preflight = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert "access-control-allow-origin" not in ask("GET", "/v1/models", headers=origin).headers
    assert_is_error(ask("OPTIONS", "/v1/completions", headers=preflight), 405)
    wanted = Asker(computing, cors=("https://page.example",), api_key=KEY)
    assert wanted("OPTIONS", "/v1/completions", headers=preflight).status_code == 200
    answer = wanted("POST", "/v1/completions", json=BODY, headers=origin)
    assert_is_error(answer, 401)  # a page can read why
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    other = wanted("GET", "/v1/models", headers={"Origin": "https://other.example", "Authorization": f"Bearer {KEY}"})
    assert other.status_code == 200 and "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/models/", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/completions", 405),
        ("PATCH", "/v1/chat/completions", 405),
        ("PUT", "/", 405),
        ("DELETE", "/v1/adapters", 405),
    ],
)
def test_paths_and_methods_that_are_not_there_are_errors_of_the_apis_form(ask, method, path, status):
    assert_is_error(ask(method, path), status)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_that_any_page_may_send_without_asking_is_refused(ask, computing, kind):
    answer = ask("POST", "/v1/completions", content=b'{"model": "nano"}', headers={"Content-Type": kind})
    assert_is_error(answer, 415)
    packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert_is_error(ask("POST", "/v1/completions", content=b"x", headers=packed), 415)


def test_a_body_that_is_too_long_is_refused_whether_it_says_so_or_not(computing):
    ask = Asker(computing, max_body=2000)
    kind = {"Content-Type": "application/json"}

    async def parts():
        """A body that does not say how long it is."""
        for _ in range(100):
            yield b" " * 1000

    for content in (b" " * 2001, parts()):
        assert_is_error(ask("POST", "/v1/completions", content=content, headers=kind), 413)
    assert_is_error(ask("POST", "/v1/completions", content=b"{}", headers={**kind, "Content-Length": "9" * 30}), 413)
    assert_is_error(ask("POST", "/v1/completions", content=b" " * 2000, headers=kind), 400)


def test_ten_megabytes_get_an_answer_and_so_does_the_next_request(live):
    with httpx.Client(base_url=live) as client:
        long = client.post("/v1/completions", json={**BODY, "prompt": "x" * 10_000_000})
        assert_is_error(long, 413)
        assert client.post("/v1/completions", json=BODY).status_code == 200


def test_where_too_much_waits_clients_are_told_when_to_come_again(ask, computing):
    computing.most, computing.delay = 2, 0.05  # the first two are not done when the third one comes
    answer = ask.post("/v1/completions", model="nano", prompt=["a", "b", "c"])
    assert assert_is_error(answer, 429)["code"] == "rate_limit_exceeded" and answer.headers["retry-after"] == "7"
    assert all(ticket.cancelled for ticket in computing.tickets), "nothing of it goes on"


def test_an_error_of_ours_is_a_line_here_and_no_traceback_there(ask, computing, capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    computing.failing = RuntimeError("secret")
    for more in ({}, {"stream": True}):
        answer = ask.post("/v1/completions", **BODY, **more)
        assert "secret" not in answer.text and "Traceback" not in answer.text
        assert answer.status_code == (200 if more else 500) and '"code":"internal_error"' in answer.text
    assert not capfd.readouterr().err, "the side that computes has said it"
    monkeypatch.setattr(computing, "submit", lambda work, deliver: 1 / 0)
    assert_is_error(ask.post("/v1/completions", **BODY), 500)
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("error: this should not happen: ZeroDivisionError")


def test_a_request_for_more_than_may_ever_wait_is_a_400_and_no_429(computing):
    ask = Asker(computing, max_waiting=6)
    options = {"model": "nano", "max_tokens": 1}
    assert ask.post("/v1/completions", prompt=["a"] * 6, **options).status_code == 200
    assert_is_error(ask.post("/v1/completions", prompt=["a"] * 7, **options), 400)
    assert ask.post("/v1/completions", prompt=["a"] * 3, n=2, **options).status_code == 200
    assert_is_error(ask.post("/v1/completions", prompt=["a"] * 4, n=2, **options), 400)
    scored = {**options, "echo": True, "logprobs": 1}  # each is continued and scored
    assert ask.post("/v1/completions", prompt=["a"] * 3, **scored).status_code == 200
    assert_is_error(ask.post("/v1/completions", prompt=["a"] * 4, **scored), 400)


def test_a_request_that_takes_too_long_is_ended(computing):
    computing.delay = 0.05
    ask = Asker(computing, timeout=0.3)
    answer = ask.post("/v1/completions", model="nano", prompt="Tea", max_tokens=200)
    assert assert_is_error(answer, 504)["code"] == "timeout" and computing.tickets[-1].cancelled
    streamed = ask.post("/v1/completions", model="nano", prompt="Tea", max_tokens=200, stream=True)
    assert streamed.status_code == 200 and '"code":"timeout"' in streamed.text and computing.tickets[-1].cancelled
    assert streamed.text.endswith("data: [DONE]\n\n")


def test_a_server_that_ends_takes_nothing_new_and_tells_those_that_wait(computing):
    computing.delay = 0.05
    with (
        listening(computing) as (address, http),
        httpx.stream("POST", f"{address}/v1/completions", json={**BODY, "max_tokens": 200, "stream": True}) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        http.close(lambda: None)
        refused = httpx.post(f"{address}/v1/completions", json=BODY)
        assert assert_is_error(refused, 503)["code"] == "shutting_down" and "retry-after" in refused.headers
        assert httpx.get(f"{address}/health").status_code == 503
        http.end(10)
        assert any('"code":"shutting_down"' in line for line in lines)
    assert computing.tickets[-1].cancelled


def test_the_page_runs_its_own_script_and_nothing_else(ask):
    answer = ask("GET", "/")
    policy = answer.headers["content-security-policy"]
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    assert policy.startswith("default-src 'none'; connect-src 'self'") and "unsafe" not in policy
    for kind, content in re.findall(r"<(script|style)\b[^>]*>(.*?)</\1>", answer.text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert re.search(rf"{kind}-src [^;]*'sha256-{re.escape(digest)}'", policy)
