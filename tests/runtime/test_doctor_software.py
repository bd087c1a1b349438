"""The doctor's rows about programs and packages, on made-up machines."""

import importlib.metadata
import platform
import sys
import sysconfig

import pytest
from machines import program
from processors import made_up

from gpt2_jittor.doctor import software
from gpt2_jittor.runtime import runtime


@pytest.mark.parametrize(
    ("version", "status"),
    [((3, 9, 4), "failed"), ((3, 10, 0), "ok"), ((3, 13, 9), "ok"), ((3, 14, 0), "warning"), ((3, 15, 0), "failed")],
)
def test_python_is_new_enough_and_not_too_new(monkeypatch, version, status):
    monkeypatch.setattr(sys, "version_info", version)
    assert software.python().status == status


@pytest.mark.parametrize(("status", "row"), [(0, "ok"), (1, "failed")])
def test_a_compiler_must_run_to_count(monkeypatch, tmp_path, status, row):
    monkeypatch.setenv("cc_path", str(program(tmp_path / "g++", "g++ 12.2.0", status)))
    assert software.compiler().status == row
    assert "g++ 12.2.0" in software.compiler().found


def test_missing_python_headers_name_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    row = software.headers()
    assert row.status == "failed" and f"apt install python3.{sys.version_info.minor}-dev" in row.mend


@pytest.mark.parametrize("config", ["absent", "of another Python", "right"])
def test_python_config_must_be_this_pythons(monkeypatch, tmp_path, config):
    (tmp_path / "Python.h").touch()
    suffix = sysconfig.get_config_var("EXT_SUFFIX") if config == "right" else ".cpython-39-x86_64-linux-gnu.so"
    script = None if config == "absent" else program(tmp_path / "config", suffix)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(runtime, "find_python_config", lambda: script)
    row = software.headers()
    assert row.status == ("ok" if config == "right" else "failed")
    assert (config == "right") != ("python_config_path" in row.mend)


@pytest.mark.parametrize(
    ("flags", "int8", "bf16"),
    [
        ("avx2 avx512_vnni", "VNNI instructions", "none on this processor"),
        ("avx512_vnni avx512_bf16", "VNNI instructions", "AVX512_BF16 instructions"),
        ("avx2", "through float32", "none on this processor"),
    ],
)
def test_how_fewer_bits_are_multiplied_is_told(monkeypatch, tmp_path, flags, int8, bf16):
    made_up(monkeypatch, tmp_path, flags)
    for row, words in ((software.int8(), int8), (software.bf16(), bf16)):
        assert row.status == "ok" and words in row.found


def installed(monkeypatch, **versions: str | None):
    """Makes `versions` the installed ones; None for a package that is not."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        found = versions[name] if name in versions else real(name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)


def answering(monkeypatch, works: bool, *said: str):
    monkeypatch.setattr(software, "run", lambda *command: (works, list(said)))


@pytest.mark.parametrize(
    ("version", "imports", "status"),
    [
        (None, False, "failed"),
        ("3.0.0", True, "failed"),
        ("2.1.0", True, "ok"),
        ("1.26.4", False, "failed"),
        ("1.26.4", True, "ok"),
    ],
)
def test_numpy_is_version_1_or_2_and_whole(monkeypatch, version, imports, status):
    installed(monkeypatch, numpy=version)
    answering(monkeypatch, imports, "ImportError: numpy is in pieces")
    row = software.numpy()
    assert row.status == status
    assert (status == "ok") != ("pip install -r requirements.txt" in row.mend)


def test_jittor_that_is_absent_fails_and_so_does_another_version(monkeypatch):
    installed(monkeypatch, jittor=None)
    assert software.jittor().status == "failed"
    installed(monkeypatch, jittor="1.3.9.14")
    assert software.jittor().status == "failed"


@pytest.mark.parametrize(
    ("works", "said", "status", "words"),
    [
        (True, "True", "ok", "compiled in"),
        (True, "False", "warning", "compiled at first use, about 4 minutes"),
        (False, "ImportError: jittor is in pieces", "failed", "jittor is in pieces"),
    ],
)
def test_jittors_core_is_compiled_or_will_be(monkeypatch, works, said, status, words):
    installed(monkeypatch, jittor="1.3.11.0")
    answering(monkeypatch, works, said)
    row = software.jittor()
    assert row.status == status and words in row.found + row.mend


def test_missing_packages_fail_and_other_versions_warn(monkeypatch):
    installed(monkeypatch, safetensors="0.1.0")
    assert software.packages().status == "warning" and "safetensors 0.1.0" in software.packages().found
    installed(monkeypatch, safetensors="0.1.0", tqdm=None)
    assert software.packages().status == "failed" and "not installed: tqdm" in software.packages().found


@pytest.mark.parametrize(
    ("machine", "cached", "status", "words"),
    [
        ("x86_64", False, "warning", "pip install"),
        ("x86_64", True, "ok", "from earlier"),
        ("aarch64", False, "warning", "needs a network once"),
    ],
)
def test_onednn_from_elsewhere_than_pip(monkeypatch, tmp_path, machine, cached, status, words):
    monkeypatch.setattr(runtime, "find_onednn", lambda: None)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(software, "jittor_cache", lambda: tmp_path)
    if cached:
        program(tmp_path / "mkl" / "dnnl_lnx_2.2.0_cpu_gomp" / "lib" / "libmkldnn.so", "")
    row = software.onednn()
    assert row.status == status and words in row.found + row.mend
