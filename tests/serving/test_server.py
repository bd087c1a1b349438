"""The whole command but for its model: it starts with one line, and ends as a signal ends a command."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from commands import assert_one_line_error, command
from places import IMPORTS, ROOT

from common.errors import UserError
from serving.adapters import ServedModels
from serving.options import ServingOptions
from serving.server import Http, bound_socket

PROGRAM = """
from computing import FakeComputing, Letters, served
from common.command import run_command
from datasets import tasks
from serving.options import ServingOptions
from serving.server import bound_socket, serve

def main():
    models = {name: served(name, tasks.find("text"), Letters()) for name in ("nano", "mine")}
    options = ServingOptions(port=0, grace=GRACE)
    with bound_socket(options.host, options.port) as listening:
        serve(FakeComputing(models, delay=DELAY), options, listening)
run_command(main)
"""


class Server:
    """A server in a process of its own."""

    def __init__(self, delay: float = 0.0, grace: float = 20.0):
        program = PROGRAM.replace("DELAY", str(delay)).replace("GRACE", str(grace))
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": IMPORTS},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.line = self.process.stdout.readline().strip()
        self.address = re.search(r"http://\S+", self.line)[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def complete(self, tokens: int, **more) -> httpx.Response:
        body = {"model": "nano", "prompt": [3, 4], "max_tokens": tokens, "logit_bias": {"0": -100}, **more}
        return httpx.post(f"{self.address}/v1/completions", json=body, timeout=60)

    def wait_for(self, running: int) -> None:
        """Returns once so many texts are being continued."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            text = httpx.get(f"{self.address}/metrics").text
            if float(re.search(r"^gpt2_jittor_running (\S+)", text, re.MULTILINE)[1]) == running:
                return
            time.sleep(0.05)
        raise AssertionError("nothing is continued")

    def ended(self) -> tuple[int, list[str]]:
        """The exit status, and what was said on stderr."""
        said = self.process.communicate(timeout=30)[1]
        return self.process.returncode, said.strip().splitlines()


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_lets_what_runs_finish_and_nothing_new_in(number, status, word):
    with Server(delay=0.02) as server:
        assert re.fullmatch(r"serving nano, mine on http://127\.0\.0\.1:\d+ \(page: /, API: /v1\)", server.line)
        answers = {}

        def ask(stream: bool) -> None:
            answers[stream] = server.complete(150, stream=stream)

        threads = [threading.Thread(target=ask, args=(stream,)) for stream in (True, False)]
        for thread in threads:
            thread.start()
        server.wait_for(2)
        server.process.send_signal(number)
        while (refused := server.complete(1)).status_code == 200:  # the signal is on its way
            pass
        assert refused.status_code == 503
        for thread in threads:
            thread.join()
        assert server.ended() == (
            status,
            ["no new requests; what runs has 20 s to finish; once more ends at once", word],
        )
    assert answers[False].json()["choices"][0]["finish_reason"] == "length"
    assert answers[True].text.endswith("data: [DONE]\n\n") and '"finish_reason":"length"' in answers[True].text


def test_what_does_not_finish_in_time_is_told_so():
    with Server(delay=0.05, grace=0.5) as server:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(server.complete(200)))
        thread.start()
        server.wait_for(1)
        server.process.send_signal(signal.SIGTERM)
        thread.join()
        assert answers[0].status_code == 503 and answers[0].json()["error"]["code"] == "shutting_down"
        assert server.ended()[0] == 143


def test_a_second_signal_ends_at_once():
    with Server(delay=0.1, grace=60) as server:
        threading.Thread(target=lambda: pytest.raises(httpx.HTTPError, server.complete, 200), daemon=True).start()
        server.wait_for(1)
        server.process.send_signal(signal.SIGINT)
        while httpx.get(f"{server.address}/health").status_code == 200:
            pass
        started = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert server.ended()[0] == 130 and time.monotonic() - started < 3


def test_an_idle_server_ends_at_once_also_with_open_connections():
    with Server() as server, httpx.Client() as client:
        assert client.get(f"{server.address}/health").json() == {"status": "ok"}
        server.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert server.ended()[0] == 143 and time.monotonic() - started < 5


def test_a_port_that_is_taken_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_one_line_error(command("serve.py", "--port", port), f"127.0.0.1:{port}", "--port", "in use")
    with pytest.raises(UserError, match="no.such.host"):
        bound_socket("no.such.host.invalid", 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "70000"), ("--port", "65,535")),
        (("--host", "0.0.0.0"), ("--host", "--api-key", "GPT2_JITTOR_API_KEY")),
        (("--adapter", "x=a", "--adapter", "b/x"), ("--adapter", "two are called x")),
        (("--cors", "page.example"), ("--cors", "origins")),
        (("--grace", "nan"), ("--grace",)),
        (("--adapters-folder", "no/such"), ("--adapters-folder", "no folder")),
        (("--api-key", ""), ("--api-key",)),
        (("--max-rows", "0"), ("--max-rows",)),
        (("--unheard-of",), ("--unheard-of",)),
    ],
)
def test_a_wrong_option_is_one_line(arguments, words):
    assert_one_line_error(command("serve.py", *arguments), *words)


def test_the_key_may_stand_in_the_environment():
    options = ServingOptions(host="0.0.0.0").with_key({"GPT2_JITTOR_API_KEY": "secret"})
    options.check()
    assert options.api_key == "secret"
    assert ServingOptions(api_key="typed").with_key({"GPT2_JITTOR_API_KEY": "secret"}).api_key == "typed"
    assert ServingOptions().with_key({"GPT2_JITTOR_API_KEY": ""}).api_key is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.9.1"])
def test_this_machine_needs_no_key(host):
    ServingOptions(host=host).check()


def test_an_adapter_is_called_as_its_folder_or_as_one_says(tmp_path):
    equal = tmp_path / "a=b"
    equal.mkdir()
    models = ServedModels(adapter=("runs/mine", "other=runs/mine/", "runs/it.2/.", "q=a=b"))
    found = {name: str(folder) for name, folder in models.adapters().items()}
    assert found == {"mine": "runs/mine", "other": "runs/mine", "it.2": "runs/it.2", "q": "a=b"}
    for wrong in (str(equal), "", "x=", "a b"):
        with pytest.raises(UserError, match="adapter"):
            ServedModels(adapter=(wrong,)).adapters()


def test_computing_does_not_wait_for_a_thread_that_has_ended():
    http = Http(None, None)
    http._loop = asyncio.new_event_loop()
    http._loop.close()
    http.let_run()


LOST = """
import asyncio
import uvicorn

async def main_loop(self):
    await asyncio.sleep(0.2)
    raise ConnectionError("lost")

uvicorn.Server.main_loop = main_loop
"""


def test_when_nobody_can_ask_any_more_it_ends_and_says_why():
    """The thread that speaks HTTP has failed: what computes must not go on for nobody."""
    ended = subprocess.run(
        [sys.executable, "-c", LOST + PROGRAM.replace("DELAY", "0").replace("GRACE", "60")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": IMPORTS},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode not in (0, 143) and "lost" in ended.stderr and ended.stderr.count("\n") <= 2
