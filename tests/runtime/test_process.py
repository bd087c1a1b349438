"""What Jittor's C++ side may say, and from which threads."""

import collections
import subprocess
import sys

from places import ROOT

THREADS, LINES = 8, 2000
SHOUTING = f"""
import threading
from gpt2_jittor.runtime import runtime
runtime.prepare("cpu")
from gpt2_jittor.runtime.backend import jt
header = "#include <iostream>\\n#include <thread>\\n#include <vector>"
source = '''
    std::vector<std::thread> threads;
    for (int t = 0; t < {THREADS}; t++) threads.emplace_back([t] {{
        for (int i = 0; i < {LINES}; i++) {{
            std::cerr << "thread " + std::to_string(t) + " says " + std::to_string(i) + "\\\\n";
            if (i % 100 == 0) std::cerr << "Compiling Operators(1/2) used: 3s\\\\r" << std::flush;
        }}
    }});
    for (auto& thread : threads) thread.join();
    *out0_p = 1;
'''
alive = threading.Thread(target=lambda: [object() for _ in range(3_000_000)])
alive.start()  # as the progress bar's: Python's lock goes to and fro
print(jt.code([1], "float32", [], cpu_header=header, cpu_src=source).item())
alive.join()
"""
IN_A_NOTEBOOK = """
import builtins, io, os, sys, types
builtins.get_ipython = lambda: types.SimpleNamespace(config={"IPKernelApp": {}})  # by which Jittor knows one
sys.stdout = io.StringIO()
from gpt2_jittor.runtime import runtime
runtime.prepare("cpu")
from gpt2_jittor.runtime.backend import jt
source = 'std::cout << "said" << std::endl; *out0_p = 1;'
jt.code([1], "float32", [], cpu_header="#include <iostream>", cpu_src=source).sync()
print("by Python:", sys.stdout.getvalue(), "log_sync" in os.environ, file=sys.stderr)
"""
CHILDREN = """
import ctypes, signal, subprocess, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
ended = []
class Library(ctypes.CDLL):  # Jittor loads some once its core is there
    def __init__(self, *arguments, **settings):
        ended.append(subprocess.run(["sh", "-c", "kill -USR1 $$"]).returncode == -signal.SIGUSR1)
        super().__init__(*arguments, **settings)
ctypes.CDLL = Library
from gpt2_jittor.runtime import runtime
runtime.prepare("cpu")
from gpt2_jittor.runtime.backend import jt
print(len(ended) > 1, all(ended))
"""


def test_threads_of_jittors_may_write_errors_at_once_and_lose_none():
    ended = subprocess.run([sys.executable, "-c", SHOUTING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.split() == ["1.0"]
    said = collections.Counter(ended.stderr.splitlines())
    assert said == {f"thread {t} says {i}": 1 for t in range(THREADS) for i in range(LINES)}


def test_in_a_notebook_jittor_does_not_write_through_python():
    ended = subprocess.run([sys.executable, "-c", IN_A_NOTEBOOK], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert (ended.stdout, ended.stderr) == ("said\n", "by Python:  False\n")


def test_a_program_that_a_signal_ends_while_jittor_is_imported_ends_nothing_else():
    """It reaches any thread; here one that was there before."""
    ended = subprocess.run([sys.executable, "-c", CHILDREN], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "True True\n"), ended.stderr[-2000:]
