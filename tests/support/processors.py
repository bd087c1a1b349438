"""A made-up processor."""

from pathlib import Path

from gpt2_jittor.runtime import cpu


def made_up(monkeypatch, folder: Path, flags: str, **environment: str) -> None:
    """This machine has a processor with these flags, and oneDNN was told nothing else than `environment` says."""
    (folder / "cpuinfo").write_text(f"processor: 0\nmodel name: A CPU\nflags\t\t: {flags}\n")
    monkeypatch.setattr(cpu, "CPUINFO", folder / "cpuinfo")
    for variables in cpu.CAPS:
        for variable in variables:
            monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
