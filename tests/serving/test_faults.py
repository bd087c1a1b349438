"""Clients that go, that do not read, that send anything: the next request is answered."""

import json
import socket
import time

import httpx
import pytest
from asking import Asker, listening
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving import completions, connection, prompts, server

FIELDS = """model messages prompt max_tokens max_completion_tokens n best_of stream stream_options echo logprobs
top_logprobs stop seed temperature top_p top_k min_p repetition_penalty frequency_penalty presence_penalty logit_bias
user input encoding_format name folder tokens tools suffix response_format"""
LONG = {"model": "nano", "prompt": "Tea", "max_tokens": 250}


def wait_until(condition, seconds: float = 10.0) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def answers(address: str) -> bool:
    """Whether a short request is answered as it should be."""
    answer = httpx.post(f"{address}/v1/completions", json={**LONG, "max_tokens": 1}, timeout=20)
    return answer.status_code == 200


def can_ask(address: str) -> bool:
    """Whether a connection is taken, and answered on."""
    try:
        return httpx.get(f"{address}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it."""
    connection.settimeout(0.01)
    try:
        return not connection.recv(1)
    except TimeoutError:
        return False
    except OSError:
        return True


def raw(address: str, data: bytes) -> socket.socket:
    """A connection on which these bytes were sent."""
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(data)
    return connection


def request(body: dict, **headers: str) -> bytes:
    """A request as it travels."""
    data = json.dumps(body).encode()
    lines = ["POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(data)}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_cancels_its_work(live, computing, stream):
    computing.delay = 0.02
    connection = raw(live, request({**LONG, "n": 3, "stream": stream}))
    assert wait_until(lambda: len(computing.tickets) == 3 and len(computing.tickets[-1].generated) > 2)
    connection.close()
    assert wait_until(lambda: all(ticket.cancelled for ticket in computing.tickets), 3)
    assert not any(ticket.done for ticket in computing.tickets), "long before their end"
    assert answers(live)


@pytest.mark.parametrize("sent", [b"", b"POST /v1/comp", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he"])
def test_a_connection_on_which_no_request_comes_is_closed(computing, monkeypatch, sent):
    """Not even a byte now and then keeps it; one on which requests come stays."""
    monkeypatch.setattr(server, "KEEP_ALIVE", 1)
    with listening(computing) as (address, _):
        begun, opened = time.monotonic(), raw(address, sent)
        opened.settimeout(0.3)
        asking = httpx.Client(base_url=address)
        closed = False
        while not closed and time.monotonic() - begun < 20:
            try:
                closed = not opened.recv(1000)
            except TimeoutError:
                opened.sendall(b"a")
            except OSError:
                closed = True
            assert asking.get("/health").status_code == 200
        assert closed and 0.9 < time.monotonic() - begun < 10


def test_a_request_that_takes_long_is_no_connection_without_one(computing, monkeypatch):
    monkeypatch.setattr(server, "KEEP_ALIVE", 1)
    computing.delay = 0.1
    with listening(computing) as (address, _):
        answer = httpx.post(f"{address}/v1/completions", json={**LONG, "max_tokens": 20}, timeout=20)
        assert answer.json()["usage"]["completion_tokens"] == 20 and answer.elapsed.total_seconds() > 1.5


def test_there_are_never_more_connections_than_files_may_be_open(computing, monkeypatch, capfd):
    monkeypatch.setattr(connection, "most_connections", lambda: 20)
    with listening(computing) as (address, _):
        silent = [raw(address, b"GET /he") for _ in range(40)]
        assert wait_until(lambda: sum(is_closed(each) for each in silent) == 20)
        for each in silent:
            each.close()
        assert wait_until(lambda: can_ask(address))
    assert "Traceback" not in capfd.readouterr().err


def test_reading_what_is_asked_ends_with_the_client_and_in_time(computing, monkeypatch):
    """Texts become ids one request after the other: what waits for that is not read for nobody."""
    read, original = [], prompts.read_prompts

    def slowly(name, given, *more):
        read.append(given)
        time.sleep(0.5)
        return original(name, given, *more)

    monkeypatch.setattr(completions, "read_prompts", slowly)
    with listening(computing, timeout=0.8) as (address, _):
        gone = [raw(address, request({**LONG, "prompt": f"gone {index}"})) for index in range(6)]
        assert wait_until(lambda: len(read) == 1)
        for each in gone:
            each.close()
        time.sleep(0.2)
        body = {**LONG, "max_tokens": 1}
        asked = httpx.post(f"{address}/v1/completions", json=body, timeout=20)
        assert asked.status_code == 504 or (asked.status_code == 200 and len(read) == 2)
        assert len(read) <= 2
        waiting = [raw(address, request({**body, "prompt": f"late {index}"})) for index in range(4)]
        answers = [each.recv(1000) for each in waiting]
        assert any(b"504" in answer for answer in answers) and any(b"200 OK" in answer for answer in answers)


@pytest.mark.parametrize("sent", [b"POST /v1/comp", b"", request(LONG)[:-5]])
def test_a_client_that_goes_before_its_request_is_whole_is_no_matter(live, computing, sent):
    raw(live, sent).close()
    assert answers(live)
    assert len(computing.tickets) == 1


def test_a_client_that_reads_nothing_holds_up_nobody(live, computing):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        host, port = live.removeprefix("http://").split(":")
        connection.connect((host, int(port)))
        connection.sendall(request({**LONG, "n": 8, "logprobs": 20, "stream": True}))
        assert wait_until(lambda: len(computing.tickets) == 8)
        started = time.monotonic()
        assert all(answers(live) for _ in range(3))
        assert time.monotonic() - started < 10
        assert wait_until(lambda: all(ticket.done for ticket in computing.tickets), 60), "computing goes on meanwhile"


@pytest.mark.parametrize("data", [b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET /\0 HTTP/1.1\r\n\r\n"])
def test_what_is_no_http_gets_an_answer_or_none_and_no_traceback(live, data, capfd):
    with raw(live, data) as connection:
        connection.settimeout(10)
        assert b"Traceback" not in connection.recv(65536)
    assert answers(live) and "Traceback" not in capfd.readouterr().err


def test_several_requests_of_one_connection_are_answered_in_turn(live):
    with raw(live, request({**LONG, "max_tokens": 2}) * 3) as connection:
        connection.settimeout(10)
        received = b""
        while received.count(b'"text_completion"') < 3:
            part = connection.recv(65536)
            assert part, received
            received += part
    assert received.count(b"200 OK") == 3


# any JSON at all, and any value where the API expects others
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from(FIELDS.split())
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": json_values}),
    max_size=3,
)
likely = st.fixed_dictionaries(
    {"model": st.sampled_from(["nano", "chat", "squad", "classify", "../../x"])},
    optional={
        "prompt": st.text(max_size=30) | st.lists(st.integers(-2, 9000), max_size=5),
        "messages": messages,
        "input": json_values,
        "max_tokens": st.integers(-1, 5) | st.just(10**12),
        "n": st.integers(0, 3),
        "stream": st.booleans(),
        "logprobs": st.booleans() | st.integers(-1, 25),
        "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=3),
        "temperature": st.floats(0, 2.5, allow_subnormal=False),
    },
)
bodies = st.one_of(
    st.binary(max_size=40),
    json_values.map(json.dumps).map(str.encode),
    st.builds(lambda known, odd: json.dumps({**known, **odd}).encode(), likely, st.dictionaries(names, json_values)),
    likely.map(lambda known: json.dumps(known).encode()),
)
paths = st.sampled_from(
    ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/classify", "/tokenize", "/detokenize"]
    + ["/v1/adapters", "/v1/models", "/v1/nothing", "/"]
)


def test_two_hundred_random_requests_get_an_answer_of_the_apis_form_each(computing):
    computing.most = 10_000
    with listening(computing) as (address, _), httpx.Client(base_url=address, timeout=30) as client:

        @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(paths, bodies)
        def check(path, body):
            """One request."""
            answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
            assert 200 <= answer.status_code < 300 or 400 <= answer.status_code < 500, (answer.status_code, answer.text)
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            elif answer.headers["content-type"].startswith("text/event-stream"):
                assert answer.text.endswith("data: [DONE]\n\n") and "internal_error" not in answer.text

        check()
        assert answers(address)


def test_absurd_numbers_allocate_nothing(computing):
    ask = Asker(computing)
    for absurd in (10**18, -(10**18), 1e300, 2**63, 10**400):
        for name in ("max_tokens", "n", "best_of", "logprobs", "top_k", "seed", "temperature", "top_p", "min_p"):
            answer = ask.post("/v1/completions", model="nano", prompt="Tea", **{name: absurd})
            assert answer.status_code in (200, 400), (name, absurd, answer.text)
            if answer.status_code == 200:
                assert name in ("top_k", "seed")
    assert all(ticket.work.max_tokens <= 256 for ticket in computing.tickets)
