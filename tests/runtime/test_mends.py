"""Jittor's sources, mended while they are imported."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys

import pytest

from common.errors import UserError
from gpt2_jittor.runtime import mends, overlay


@pytest.fixture
def untouched(monkeypatch, tmp_path):
    """A home of its own, and the finders of modules as they were afterwards."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    return tmp_path


@pytest.mark.parametrize("needed", [mends.NEWER_PYTHONS, mends.NEWER_DEVICES])
def test_what_is_to_be_mended_stands_once_in_the_jittor_that_is_installed(needed):
    for name, (old, new) in needed.items():
        path = name.replace(".", "/") + (".py" if "." in name else "/__init__.py")
        source = importlib.metadata.distribution("jittor").locate_file(path).read_text(encoding="utf-8")
        assert source.count(old) == 1 and new not in source


def test_another_jittor_is_refused_in_one_line(untouched, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.3.12.0")
    with pytest.raises(UserError, match=r"^Jittor 1\.3\.12\.0 is installed, and 1\.3\.11\.0 is .*make setup") as raised:
        mends.mend("cpu", "")
    assert "\n" not in str(raised.value)


def loaded(folder, source: str, mend: tuple[str, str]):
    """A module of this source, mended, and its file."""
    path = folder / "mended_here.py"
    path.write_text(source, encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        spec = mends._Finder([{"mended_here": mend}]).find_spec("mended_here")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module, path


def test_a_module_is_loaded_mended_and_its_files_stay(untouched):
    module, path = loaded(untouched, "limit = 90\n", ("limit = 90", "limit = 121"))
    assert module.limit == 121 and path.read_text() == "limit = 90\n"
    assert list(untouched.rglob("*.pyc")) == []
    assert mends._Finder([{"mended_here": ("", "")}]).find_spec("json") is None


@pytest.mark.parametrize("source", ["limit = 91\n", "limit = 90\nlimit = 90\n"])
def test_a_source_of_another_wording_is_refused(untouched, source):
    with pytest.raises(UserError, match=r"mended_here\.py is not that of Jittor 1\.3\.11\.0: install it again"):
        loaded(untouched, source, ("limit = 90", "limit = 121"))


IMPORTING = """
import os
from gpt2_jittor.runtime import runtime
runtime.prepare("cpu")
runtime.core_is_compiled()
print(os.environ["cc_flags"])
"""


def test_the_compilers_options_are_the_same_in_a_process_that_another_has_started(tmp_path):
    def flags(variables: dict) -> str:
        command = [sys.executable, "-c", IMPORTING]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout.strip()

    first = flags(os.environ | {"cc_flags": "-DMINE"})
    assert first.endswith("-DMINE") and first.count("-I") == 1
    assert flags(os.environ | {"cc_flags": first}) == first
    elsewhere = flags(os.environ | {"cc_flags": first, "HOME": str(tmp_path)})
    assert elsewhere.endswith("-DMINE") and elsewhere.count("-I") == 1 and str(tmp_path) in elsewhere


def test_an_overlay_is_made_once_and_whole(untouched):
    made = []

    def fill(new):
        made.append(new)
        (new / "file").write_text("ours")
        if len(made) == 1:
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="cannot be written: No space left on device; "):
        overlay.placed("headers", ["a"], fill)
    assert list(overlay.cache().iterdir()) == []
    folder = overlay.placed("headers", ["a"], fill)
    assert (folder / "file").read_text() == "ours"
    assert overlay.placed("headers", ["a"], fill) == folder and len(made) == 2
    assert overlay.placed("headers", ["b"], fill) != folder


def test_two_processes_that_make_the_same_overlay_agree(untouched):
    def fill(new):
        (new / "file").write_text("ours")
        if not nested:
            nested.append(overlay.placed("headers", ["a"], fill_within))

    def fill_within(new):
        nested.append(None)
        (new / "file").write_text("theirs, who were first")

    nested = []
    folder = overlay.placed("headers", ["a"], fill)
    assert (folder / "file").read_text() == "theirs, who were first"
    assert list(overlay.cache().iterdir()) == [folder]
