"""Trackers' packages, as doubles that write down their calls."""

import sys

import pytest
from tracker_doubles import DOUBLES


@pytest.fixture
def double(tmp_path, monkeypatch):
    """Makes one of the packages, as it would be installed; returns its name."""

    def make(name: str):
        (tmp_path / "packages").mkdir(exist_ok=True)
        (tmp_path / "packages" / f"{name}.py").write_text(DOUBLES[name])
        monkeypatch.syspath_prepend(tmp_path / "packages")
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    yield make
    for name in DOUBLES:
        sys.modules.pop(name, None)
