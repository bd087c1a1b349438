"""What can be wrong with Jittor's cache, its folder and the shell's limits: one line, before Jittor is imported."""

import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from places import ROOT

from common.errors import UserError
from gpt2_jittor.runtime import kernel_cache, runtime

PROGRAM = """
from common.command import run_command
def main():
    from gpt2_jittor.runtime.backend import jt
run_command(main)
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="the libraries of other systems are not looked into")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A sound library, as the compiler that Jittor calls makes it: a kernel's worth."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "a.cc").write_text('#include <vector>\nextern "C" int f(int n) { return std::vector<int>(n).size(); }\n')
    compiler = runtime.find_compiler()
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "a.cc", "-o", "a.so"], cwd=folder, check=True, timeout=60)
    return folder / "a.so"


@pytest.fixture
def cache(tmp_path, library):
    (tmp_path / "key" / "default" / "jit").mkdir(parents=True)
    shutil.copy(library, tmp_path / "key" / "default" / "jittor_core.so")
    shutil.copy(library, tmp_path / "key" / "default" / "jit" / "op.so")
    return tmp_path / "key" / "default"


def start(home: Path, **settings) -> subprocess.CompletedProcess:
    """Imports Jittor at that home, where it would have to be compiled: only what ends before that may be tried."""
    environment = {name: value for name, value in os.environ.items() if name != "cache_name"} | {"HOME": str(home)}
    line = [sys.executable, "-c", PROGRAM]
    return subprocess.run(
        line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False, **settings
    )


def assert_one_line(ended: subprocess.CompletedProcess, *words) -> None:
    assert ended.returncode == 2 and ended.stdout == "", ended.stderr
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1, ended.stderr
    assert [word for word in words if str(word) not in ended.stderr] == [], ended.stderr


def cache_at(home: Path) -> Path:
    """Where Jittor keeps its cache if that is the home."""
    prepared = "from gpt2_jittor.runtime import runtime; runtime.prepare('cpu')"
    said = f"{prepared}; import jittor_utils; print(jittor_utils.cache_path)"
    environment = {name: value for name, value in os.environ.items() if name != "cache_name"} | {"HOME": str(home)}
    ended = subprocess.run(
        [sys.executable, "-c", said], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return Path(ended.stdout.splitlines()[-1])


def test_a_sound_cache_and_an_empty_one_are_nothing_to_speak_of(cache, tmp_path):
    kernel_cache.check(cache)
    (tmp_path / "new").mkdir()
    kernel_cache.check(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


@linux
@pytest.mark.parametrize("name", ["jittor_core.so", "jit/op.so", "custom_ops/more.so", "cu11/jittor_core.so"])
def test_a_library_that_was_cut_anywhere_is_named_with_what_to_do(cache, library, rng, name):
    path = cache / name
    path.parent.mkdir(exist_ok=True)
    whole = library.read_bytes()
    cuts = {0, 3, 60, 64, len(whole) // 2, len(whole) - 1, *rng.integers(len(whole), size=10).tolist()}
    for kept in [whole[:cut] for cut in cuts] + [bytes(len(whole)), b"!<arch>\n" + whole[8:]]:
        path.write_bytes(kept)
        with pytest.raises(UserError, match=f"{path} .*damaged.*`rm -r {cache}`"):
            kernel_cache.check(cache)
        assert path.is_file()  # nothing is removed
    path.write_bytes(whole)
    kernel_cache.check(cache)


@linux
def test_several_are_counted(cache):
    for path in cache.rglob("*.so"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="op.so and 1 more"):
        kernel_cache.check(cache)


@linux
@pytest.mark.parametrize("kind", ["flock", "lockf"])  # Jittor's while it compiles its core, and its core's for kernels
def test_a_library_that_another_process_is_writing_is_waited_for(cache, library, kind):
    path, whole = cache / "jit" / "op.so", library.read_bytes()
    path.write_bytes(whole[:1000])
    locking = f"import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.{kind}(file, fcntl.LOCK_EX); print(); input()"
    line = [sys.executable, "-c", locking, cache.parent / "jittor.lock"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        checking = threading.Thread(target=kernel_cache.check, args=[cache])
        checking.start()
        time.sleep(0.3)
        assert checking.is_alive()
        path.write_bytes(whole)
        other.communicate(b"\n")
    checking.join(10)
    assert not checking.is_alive()
    kernel_cache.check(cache)


@linux
def test_the_command_tells_of_a_core_that_was_cut_in_place_of_a_bus_error(tmp_path, library):
    cache = cache_at(tmp_path)
    (cache / "jittor_core.cpython.so").write_bytes(library.read_bytes()[:10_000])
    assert_one_line(start(tmp_path), cache / "jittor_core.cpython.so", f"rm -r {cache}")


@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null/home"])  # where not even root can write
def test_a_home_that_cannot_be_written_is_one_line(home):
    assert_one_line(start(Path(home)), home, "cannot be written", "set HOME")


def test_a_lock_that_cannot_be_opened_is_one_line(tmp_path):
    lock = cache_at(tmp_path).parent / "jittor.lock"
    lock.unlink()
    lock.mkdir()
    assert_one_line(start(tmp_path), lock, "set HOME")


def test_a_cache_that_cannot_be_written_is_one_line(cache, monkeypatch):
    def refuse(dir=None):  # noqa: A002 (the library's name for it)
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(kernel_cache.tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=f"{cache}: Permission denied; make it writable, or set HOME"):
        kernel_cache.check(cache)
    with pytest.raises(UserError, match="Not a directory"):
        (cache.parent / "file").touch()
        kernel_cache.check(cache.parent / "file" / "default")


def test_settings_of_jittors_that_were_cut_are_one_line(tmp_path):
    settings = tmp_path / ".cache" / "jittor" / "config.json"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"JITTOR_HO')
    assert_one_line(start(tmp_path), settings, "remove it")


def test_too_few_handles_are_one_line_and_a_low_limit_that_may_be_raised_is(tmp_path, monkeypatch):
    few = start(tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)))
    assert_one_line(few, "only 32 files", "ulimit -n 1024")
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (32, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: limits.append(pair))
    kernel_cache.allow_handles()
    assert limits == [(1024, 4096)]
