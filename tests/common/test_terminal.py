"""Control characters from outside do nothing on a terminal: the streams spell them out, whoever prints."""

import ast
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import unicodedata

import numpy as np
import pytest
from places import ROOT

from common.terminal import visible

HOSTILE = {
    "a title": ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
    "a colour": ("\x1b[31mred", r"\x1b[31mred"),
    "a clipboard": ("\x1b]52;c;bHM=\x1b\\", r"\x1b]52;c;bHM=\x1b" + "\\"),
    "a link": ("\x1b]8;;http://a\x07b", r"\x1b]8;;http://a\x07b"),
    "a cursor moved up": ("\x1b[A", r"\x1b[A"),
    "a line written over": ("sure?\rno", r"sure?\x0dno"),
    "an eight-bit sequence": ("\x9b31m", r"\u009b31m"),
    "deletions": ("abc\x08\x7f", r"abc\x08\u007f"),
    "another direction": ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
    "half a character": ("a\udcffb", r"a\udcffb"),
}
PROGRAM = """
import sys
from common.command import run_command
from common.errors import UserError
from common.terminal import bar, exact
text = {text!r}
def main():
    {body}
run_command(main)
"""


def program(body: str, text: str = "") -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(body=body, text=text)]


def piped(body: str, text: str = "", **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        program(body, text), cwd=ROOT, capture_output=True, timeout=60, check=False, env=os.environ | environment
    )


def on_terminal(body: str, text: str = "") -> str:
    """What reaches a terminal that both streams of the program lead to."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))  # tcsetwinsize is of Python 3.11
    process = subprocess.Popen(program(body, text), cwd=ROOT, stdin=its, stdout=its, stderr=its)
    os.close(its)
    said = b""
    while True:
        try:
            block = os.read(ours, 4096)
        except OSError:  # Linux's way of saying that the other end is closed
            break
        if not block:
            break
        said += block
    os.close(ours)
    assert process.wait(timeout=60) in (0, 2)
    return said.decode().replace("\r\n", "\n")  # a terminal's own line ends


@pytest.mark.parametrize("text, shown", HOSTILE.values(), ids=HOSTILE)
def test_a_sequence_is_spelled_out_whichever_way_it_is_printed(text, shown):
    ways = "print(text); sys.stdout.writelines([text]); print(); print(text, file=sys.stderr); raise UserError(text)"
    ended = piped(ways, text)
    assert ended.stdout.decode() == f"{shown}\n{shown}\n"
    assert ended.stderr.decode() == f"{shown}\nerror: {visible(' '.join(text.split()))}\n"
    assert on_terminal("print(text, file=exact(sys.stdout))", text) == f"{shown}\n"


def test_a_sequence_that_is_cut_between_tokens_is_spelled_out_too():
    body = "[print(piece, end='', flush=True, file=exact(sys.stdout)) for piece in text]"
    assert on_terminal(body, "a\x1b]0;owned\x07b\n\tc") == r"a\x1b]0;owned\x07b" + "\n\tc"


def test_an_answer_goes_into_a_pipe_as_it_is():
    text = "a\x1b[31mb\r\x9bc\u202e\td"
    assert piped("print(text, file=exact(sys.stdout), end='')", text).stdout.decode() == text


def test_no_control_character_is_left_and_what_is_visible_stays_as_it_is(rng):
    every = "".join(map(chr, range(0x110000)))
    shown = visible(every)
    kept = set(every) & set(shown)
    assert {c for c in kept if unicodedata.category(c) in ("Cc", "Cs")} == {"\n", "\t"}
    assert not kept & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert set("aé你😀\u200d\u200fש") <= kept  # letters of every script, and what joins an emoji's parts
    assert visible(shown) == shown


def test_what_is_printed_as_json_means_the_same(rng):
    for _ in range(50):
        codes = [*rng.integers(0, 0x3000, 40), *rng.integers(0xD800, 0xDC00, 2), *rng.integers(0x10000, 0x110000, 4)]
        text = "".join(map(chr, rng.permutation(codes)))
        assert json.loads(visible(json.dumps({"a": text}, ensure_ascii=False))) == {"a": text}


@pytest.mark.parametrize("text", ["你好 😀", "café", "a\ud800b"])
def test_no_character_makes_printing_fail_whatever_the_encoding(text):
    ended = piped("import json; print(json.dumps(text, ensure_ascii=False))", text, PYTHONIOENCODING="ascii")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == text and ended.stdout.isascii()
    assert piped("print(text, file=exact(sys.stdout))", text, PYTHONIOENCODING="ascii").returncode == 0


def test_a_bar_moves_the_cursor_and_is_cleared_for_what_others_say_but_its_name_cannot():
    said = on_terminal("b = bar(text, total=2); b.update(); type(b).write('said' + text); b.close()", "\x1b[31mx")
    assert r"\x1b[31mx:" in said and r"said\x1b[31mx" in said and "\x1b[31m" not in said
    *_, wiped, begun = said.partition("said")[0].split("\r")
    assert wiped.isspace() and begun == "", said


def test_nobody_else_makes_bars():
    makers = []
    for path in ROOT.rglob("*.py"):
        inside = path.relative_to(ROOT).parts
        if inside[0] == "tests" or inside[0].startswith(".venv") or inside == ("common", "terminal.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("tqdm", "trange"):
                makers.append(str(path))
    assert makers == []


def test_an_adapter_of_a_strangers_shows_its_names_and_does_nothing(tmp_path):
    from lora.config import LoraConfig
    from lora.files import write_adapter

    title = HOSTILE["a title"][0]
    config = LoraConfig(r=2, target_modules=["c_attn"], base_model_name_or_path=title)
    path = f"base_model.model.transformer.h.0.attn.{title}"
    tensors = {
        f"{path}.lora_A.weight": np.ones((2, 4), np.float32),
        f"{path}.lora_B.weight": np.ones((6, 2), np.float32),
    }
    write_adapter(tmp_path / title, config, tensors)
    for more in ([], ["--json"]):
        line = [sys.executable, "-m", "lora", "inspect", "--adapter", tmp_path / title, *more]
        ended = subprocess.run(line, cwd=ROOT, capture_output=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stderr
        assert b"\x1b" not in ended.stdout + ended.stderr and b"x1b]0;owned" in ended.stdout + ended.stderr
    assert json.loads(ended.stdout)["adapter"] == str(tmp_path / title)
