"""How commands end: where a path or a disk refuses, and where nobody reads what they say."""

import errno
import os
import subprocess
import sys

import pytest
import tiny
from commands import assert_one_line_error, command, error_of, start_main, train
from places import ROOT

from common import lock
from common.errors import UserError
from common.files import write_text


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG, errno.EROFS, errno.ENOSPC, errno.EIO])
def test_what_the_system_says_of_a_path_is_one_line(number):
    status, said = error_of(f"raise OSError({number}, 'so it is', '/a/path')")
    assert (status, said) == (2, "error: /a/path: so it is; give another path\n")


def test_a_line_that_nobody_would_read_is_cut_where_it_says_least():
    status, said = error_of("from common.errors import UserError; raise UserError('first' + 'x' * 9999 + 'last')")
    assert status == 2 and said.startswith("error: first") and said.endswith("last\n") and len(said) < 2100


UNEXPECTED = {
    "a refusal that is no path's fault": (f"OSError({errno.ENOTCONN}, 'so it is')", "OSError: [Errno 107] so it is"),
    "a key": ("KeyError('x')", "KeyError: 'x'"),
    "pages of a compiler's": ("RuntimeError('a\\n' * 9999)", "RuntimeError: a a a"),
    "no words": ("AssertionError", "AssertionError"),
    "a title for the terminal": ("ValueError('\\x1b]0;owned\\x07')", r"ValueError: \x1b]0;owned\x07"),
    "recursion": ("sys.setrecursionlimit(90) or RecursionError('maximum')", "RecursionError: maximum"),
}


@pytest.mark.parametrize("error, words", UNEXPECTED.values(), ids=UNEXPECTED)
def test_an_error_that_nobody_expected_is_one_line_and_a_file_with_its_traceback(tmp_path, error, words):
    status, said = error_of(f"raise {error}", env=os.environ | {"TMPDIR": str(tmp_path)})
    (log,) = tmp_path.iterdir()
    assert (status, said.count("\n")) == (70, 1) and len(said) < 700
    assert said.startswith("error: this should not happen: ") and words in said and "please report it" in said
    assert f"its traceback is in {log}" in said and "common/command.py:" in said
    kept = log.read_text()
    assert "Traceback (most recent call last)" in kept and "python -c" in kept and kept.rstrip().splitlines()[-1]


def test_where_no_file_can_be_written_the_line_says_so_and_still_says_where_it_happened(tmp_path):
    body = "import tempfile; tempfile.tempdir = '/nowhere'; {}['x']"
    status, said = error_of(body)
    assert (status, said.count("\n")) == (70, 1) and "KeyError: 'x'" in said and "No such file" in said


@pytest.mark.parametrize("error", ["MemoryError", "MemoryError('Unable to allocate 7 GiB')"])
def test_memory_that_runs_out_is_one_line_that_says_what_to_lower(tmp_path, error):
    status, said = error_of(f"raise {error}", env=os.environ | {"TMPDIR": str(tmp_path)})
    assert (status, said.count("\n")) == (70, 1) and said.startswith("error: out of memory")
    assert "--batch-size" in said and "this should not happen" not in said


def test_too_few_file_handles_are_one_line_that_names_the_limit():
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))"
    told = "error: Too many open files: let this shell open more, `ulimit -n 1024` for instance\n"
    assert error_of(f"{limit}; kept = [open('/dev/null') for _ in range(99)]") == (2, told)


def test_a_full_disk_behind_the_output_is_one_line():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        status, said = error_of("print('x' * 100_000)", stdout=full)
    assert (status, said) == (2, "error: what is printed: No space left on device\n")


@pytest.mark.parametrize("number", [errno.EBADF, errno.EAGAIN, errno.ECONNRESET])
def test_a_stream_that_was_opened_the_wrong_way_is_one_line(number):
    assert error_of(f"raise OSError({number}, 'so it is')") == (2, "error: what is read or printed: so it is\n")


def test_what_is_no_exception_of_pythons_is_one_line_too():
    status, said = error_of("exec('class PanicException(BaseException): pass\\nraise PanicException(1)')")
    assert status == 70 and said.count("\n") == 1 and "PanicException" in said


def closed_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def test_without_a_reader_a_command_ends_as_programs_do():
    assert error_of("print('x' * 100_000)", stdout=closed_pipe()) == (141, "")


def test_what_may_be_lost_is_lost_and_the_work_goes_on():
    body = "ignore_closed_output('stdout', 'stderr'); print(1); print(2, flush=True); print('done', file=sys.stderr)"
    assert error_of(body, stdout=closed_pipe()) == (0, "done\n")


def test_training_goes_on_to_its_end_without_a_reader(tmp_path):
    model, data = tiny.model_folder(tmp_path / "model", seed=1), tiny.dialogue_folder(tmp_path / "data", seed=2)
    line = [sys.executable, *map(str, train(tmp_path / "run", model, data, "--max-steps", 4, "--lora-r", 2))]
    ended = subprocess.run(line, cwd=ROOT, stdout=closed_pipe(), stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "run" / "checkpoint-4").is_dir() and (tmp_path / "run" / "README.md").is_file()


def test_a_note_that_nobody_hears_does_not_end_the_work():
    reading, writing = os.pipe()
    body = "print('note', file=sys.stderr, flush=True); print('work')"
    process = start_main(body, stdout=writing, stderr=closed_pipe())
    os.close(writing)
    assert process.wait(60) == 0 and os.read(reading, 100) == b"work\n"


def test_a_terminal_that_nobody_reads_does_not_stop_what_may_be_lost():
    """More than a terminal holds, in lines of all lengths."""
    _, terminal = os.openpty()
    body = "ignore_closed_output('stdout'); [print('x' * (i % 300)) for i in range(2000)]"
    assert start_main(body, stdout=terminal).wait(60) == 0


LONG = "x" * 300


@pytest.mark.parametrize(
    "line",
    [
        ("train.py", "--model", LONG),
        ("train.py", "--data-dir", LONG),
        ("train.py", "--output-dir", LONG),
        ("train.py", "--output-dir", LONG, "--resume"),
        ("plot_loss.py", LONG),
    ],
    ids=" ".join,
)
def test_a_name_that_is_too_long_is_told_in_one_line(line):
    assert_one_line_error(command(*line), LONG, "File name too long")


def test_a_lock_holds_on_a_full_disk_and_tells_the_first_error_where_the_folder_became_read_only(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="the first"), lock.locked(tmp_path / "run"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", refuse)
            with lock.locked(tmp_path / "other"):  # without its process's number
                assert (tmp_path / "other" / lock.LOCK).is_file()
        monkeypatch.setattr("pathlib.Path.unlink", refuse)
        raise UserError("the first")


def test_a_write_that_fails_tells_why_though_its_remains_cannot_be_removed(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(UserError, match="cannot write .*Read-only file system"):
        write_text(tmp_path / "a", "text")
