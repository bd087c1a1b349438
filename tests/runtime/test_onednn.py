"""pip's oneDNN where Jittor looks for its own: placed, mended, left alone."""

import ctypes
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from places import ROOT

from gpt2_jittor.runtime import runtime

LINUX_X86_64 = platform.system() == "Linux" and platform.machine() == "x86_64"


@pytest.fixture
def onednn(tmp_path, monkeypatch):
    """pip's oneDNN, made up; `loaded` lists what was loaded, `folder` is where Jittor looks."""
    include, library = tmp_path / "pip" / "include", tmp_path / "pip" / "libdnnl.so.2"
    include.mkdir(parents=True)
    library.touch()
    loaded = []
    monkeypatch.setattr(runtime, "find_onednn", lambda: (include, library))
    monkeypatch.setattr(ctypes, "CDLL", lambda path, mode: loaded.append((path, mode)))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    home = tmp_path / "home"
    folder = home / ".cache" / "jittor" / "mkl" / "dnnl_lnx_2.2.0_cpu_gomp"
    return SimpleNamespace(include=include, library=library, loaded=loaded, home=home, folder=folder)


def links(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path.readlink() for path in folder.rglob("*") if path.is_symlink()}


def test_onednn_is_placed_where_jittor_looks_and_loaded_for_all(onednn):
    runtime.lend_onednn(onednn.home)
    assert links(onednn.folder) == {"include": onednn.include, "lib/libmkldnn.so": onednn.library}
    assert onednn.loaded == [(str(onednn.library), os.RTLD_GLOBAL | os.RTLD_NOW)]


def test_links_into_a_deleted_environment_are_mended(onednn):
    (onednn.folder / "lib").mkdir(parents=True)
    (onednn.folder / "include").symlink_to("/nowhere/include")
    (onednn.folder / "lib" / "libmkldnn.so").symlink_to("/nowhere/libdnnl.so.2")
    runtime.lend_onednn(onednn.home)
    assert links(onednn.folder) == {"include": onednn.include, "lib/libmkldnn.so": onednn.library}


def test_links_into_another_environment_are_turned_to_this_one(onednn, tmp_path):
    other = tmp_path / "other" / "libdnnl.so.2"
    other.parent.mkdir()
    other.touch()
    (onednn.folder / "lib").mkdir(parents=True)
    (onednn.folder / "include").symlink_to(other.parent)
    (onednn.folder / "lib" / "libmkldnn.so").symlink_to(other)
    runtime.lend_onednn(onednn.home)
    assert links(onednn.folder) == {"include": onednn.include, "lib/libmkldnn.so": onednn.library}


def test_an_unfinished_download_of_jittors_is_replaced(onednn):
    (onednn.folder / "include").mkdir(parents=True)
    (onednn.folder / "include" / "dnnl.h").touch()
    runtime.lend_onednn(onednn.home)
    assert links(onednn.folder) == {"include": onednn.include, "lib/libmkldnn.so": onednn.library}


def test_jittors_own_onednn_is_left_alone_and_loaded(onednn):
    own = onednn.folder / "lib" / "libmkldnn.so"
    own.parent.mkdir(parents=True)
    (onednn.folder / "include").mkdir()
    own.write_bytes(b"downloaded by Jittor")
    runtime.lend_onednn(onednn.home)
    assert links(onednn.folder) == {} and own.read_bytes() == b"downloaded by Jittor"
    assert onednn.loaded == [(str(own), os.RTLD_GLOBAL | os.RTLD_NOW)]


def test_another_processor_keeps_to_what_jittor_does(onednn, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    runtime.lend_onednn(onednn.home)
    assert not onednn.home.exists() and onednn.loaded == []


LENDING = """
import sys
from pathlib import Path
from gpt2_jittor.runtime import runtime

pip, homes = Path(sys.argv[1]), Path(sys.argv[2])
runtime.find_onednn = lambda: (pip / "include", pip / "libdnnl.so.2")
runtime.platform.system, runtime.platform.machine = lambda: "Linux", lambda: "x86_64"
runtime.ctypes.CDLL = lambda *_: None
print("ready", flush=True)
sys.stdin.readline()
for number in range(100):
    runtime.lend_onednn(homes / str(number))
"""


def test_processes_that_start_together_do_not_disturb_each_other(onednn, tmp_path):
    homes, pip = tmp_path / "homes", onednn.library.parent
    command = [sys.executable, "-c", LENDING, str(pip), str(homes)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[1] for process in processes] == ["", "", ""]
    for number in range(100):
        folder = homes / str(number) / onednn.folder.relative_to(onednn.home)
        assert links(folder) == {"include": onednn.include, "lib/libmkldnn.so": onednn.library}


@pytest.mark.skipif(not LINUX_X86_64, reason="pip's oneDNN is for Linux on x86-64")
def test_pips_onednn_is_found_with_its_headers():
    include, library = runtime.find_onednn()
    assert (include / "dnnl.hpp").is_file() and library.name.startswith("libdnnl.so")


def test_onednn_that_is_not_installed_is_none(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "files", mock.Mock(side_effect=importlib.metadata.PackageNotFoundError))
    assert runtime.find_onednn() is None
