"""What is said of the machine and of what is installed there."""

import re
from importlib import metadata
from pathlib import Path

import pytest

from asyncds.telemetry import machine
from asyncds.telemetry.machine import hardware, versions


def test_versions_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions()["version"] == metadata.version("asyncds")
    monkeypatch.setattr(machine, "_DISTRIBUTIONS", {"torch": ("no-such-package", "numpy")})
    assert versions()["torch"] == metadata.version("numpy")
    monkeypatch.setattr(machine, "_DISTRIBUTIONS", {"torch": ("no-such-package",)})
    assert versions()["torch"] == ""


def test_gpus_are_counted_by_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"0000:0{i}").mkdir()
        (tmp_path / f"0000:0{i}" / "information").write_text("Model: \t\t Some GPU\nIRQ: 1\n")
    monkeypatch.setattr(machine, "_GPUS", tmp_path)
    assert re.fullmatch(r"\d+ cores, \d+ GiB, 2 × Some GPU", hardware())
