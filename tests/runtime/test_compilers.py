"""The compilers that Jittor starts: no signal to our process group reaches them or ends the wait for another process's,
and none outlives its work.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from places import ROOT

LOCKS = Path("/proc/locks")
START = """
from gpt2_jittor.runtime import runtime
runtime.prepare("cpu")
from gpt2_jittor.runtime.backend import jt
"""
# constants that a compiler works out one by one: a second or more of compilation, of a source that no cache has
COMPILING = """
import signal
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
header = '''// {name}
template <int n> struct Sum {{ static constexpr long value = Sum<n - 1>::value + n % 7; }};
template <> struct Sum<0> {{ static constexpr long value = 0; }};
template <int n> long sum_of() {{ return Sum<n>::value + n; }}
'''
source = "long total = 0; " + "".join(f"total += sum_of<{{n}}>();" for n in range(1, 800)) + "*out0_p = total ? 1 : 2;"
values = [jt.code([1], "float32", [], cpu_header=header + f"// {{i}}", cpu_src=source) for i in range({count})]
print("compiling", flush=True)
jt.sync(values)
print("compiled", [value.item() for value in values], "heard", len(heard), flush=True)
"""


def compiles(program: str) -> bool:
    """Whether a compiler works on the operator whose name holds this."""
    listed = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    return any("cc1plus" in line and program in line for line in listed.splitlines())


@pytest.mark.parametrize("count", [1, 3], ids=["in the main thread", "in Jittor's threads"])
def test_a_signal_to_the_group_does_not_reach_a_compilation(count):
    name = f"n{uuid.uuid4().hex[:12]}"
    program = START + COMPILING.format(name=name, count=count)
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "compiling\n"
    deadline = time.monotonic() + 60
    while not compiles(name):
        assert time.monotonic() < deadline
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=300)[0]
    assert (process.returncode, said) == (0, f"compiled {[1.0] * count} heard 1\n")


WAITING = """
import signal, sys
from jittor_utils.lock import lock_path
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
print(lock_path, flush=True)
sys.stdin.readline()
value = jt.code([1], "float32", [], cpu_src="*out0_p = 3;  // {name}") + 1
print("computed", value.item(), "heard", len(heard), flush=True)
"""


def waits_for_a_lock(number: int) -> bool:
    """Whether the kernel lists a process among those that wait for a file's lock: "1: -> POSIX ADVISORY WRITE 17 …"."""
    return any(line.split()[1] == "->" and line.split()[5] == str(number) for line in LOCKS.read_text().splitlines())


@pytest.mark.skipif(not LOCKS.exists(), reason="no list of locks here")
def test_a_signal_does_not_end_the_wait_for_what_another_process_compiles():
    program = START + WAITING.format(name=uuid.uuid4().hex)
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with Path(process.stdout.readline().strip()).open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        process.stdin.write("\n")
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not waits_for_a_lock(process.pid):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
    said = process.communicate(timeout=300)[0]
    assert (process.returncode, said) == (0, "computed 4.0 heard 1\n")


def test_once_jittor_is_imported_no_process_of_its_is_left():
    program = START + "import os; os.system('ps --no-headers -o comm --ppid %d' % os.getpid())"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["sh"], ended.stdout


APART = """
import os, pathlib, signal, sys, threading, time
import jittor_utils
from gpt2_jittor.runtime.process import compile_apart
jittor_utils.pool_initializer = lambda: None
parent = os.getpid()
def compile_one(task):
    number, folder, _ = task
    if number == {failing}:
        raise RuntimeError("no good")
    pathlib.Path(folder, f"{{number}} {{os.getsid(0) == os.getsid(parent)}}").touch()
    if {hanging}:
        own = os.getpid()  # not the shell's $PPID, which is whoever adopts it once this process is dead
        os.system("sleep 60 & " + (f"kill -9 {{own}}" if {interrupted!r} == "by its worker's death" else "wait"))
jittor_utils.do_compile = compile_one
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
def interrupt_later():
    while not os.listdir(sys.argv[1]):
        time.sleep(0.05)
    interrupt()
def interrupted_fork(fork=os.fork):
    os.fork = fork
    worker = fork()
    if worker:
        interrupt()
        interrupt()  # some shells send it, and the terminal
    return worker
if {interrupted!r} == "while one starts":
    os.fork = interrupted_fork
elif {interrupted!r} == "while they compile":
    threading.Thread(target=interrupt_later).start()
compile_apart(range({count}), sys.argv[1], "")
"""


def apart(
    folder: Path, count: int, failing: int | None = None, interrupted: str | None = None
) -> subprocess.CompletedProcess:
    """Lets `compile_apart` do what only writes down that it was done, or what takes a minute and is interrupted."""
    program = APART.format(count=count, failing=failing, interrupted=interrupted, hanging=bool(interrupted))
    line = [sys.executable, "-c", program, str(folder)]
    return subprocess.run(
        line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=50, start_new_session=True
    )


def test_every_source_is_compiled_once_in_a_session_of_another_process(tmp_path):
    assert apart(tmp_path, 300).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{number} False" for number in range(300))


def test_a_source_that_fails_is_an_error_with_the_reason(tmp_path):
    ended = apart(tmp_path, 5, failing=3)
    assert ended.returncode == 1
    assert "no good" in ended.stderr and "could not be compiled" in ended.stderr


def test_what_a_worker_ran_ends_with_it(tmp_path):
    ended = apart(tmp_path, 5, interrupted="by its worker's death")
    assert ended.returncode == 1 and "could not be compiled" in ended.stderr


@pytest.mark.parametrize("when", ["while one starts", "while they compile"])
def test_ctrl_c_ends_the_compilers_at_once(tmp_path, when):
    started = time.monotonic()
    ended = apart(tmp_path, 5, interrupted=when)
    assert "KeyboardInterrupt" in ended.stderr and time.monotonic() - started < 30
    assert list(tmp_path.iterdir()) or when == "while one starts"
    assert (
        str(tmp_path) not in subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    )
