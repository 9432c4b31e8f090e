"""The parts of a checkpoint that need no engine: what is complete, whole, or to be removed."""

import json
from pathlib import Path

import pytest

from asyncds.engine.checkpoint import MANIFEST, CheckpointError, _describe, latest, prune, verify


def write(directory: Path) -> Path:
    (directory / "hf").mkdir(parents=True)
    (directory / "hf" / "model.safetensors").write_bytes(b"weights")
    (directory / "optimizer.pt").write_bytes(b"moments")
    manifest = {"state": {}, "files": _describe(directory)}
    (directory / MANIFEST).write_text(json.dumps(manifest))
    return directory


def test_a_whole_checkpoint_verifies(tmp_path: Path) -> None:
    assert set(verify(write(tmp_path / "step-1"))["files"]) == {
        "hf/model.safetensors",
        "optimizer.pt",
    }


def test_every_damaged_file_is_named(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "step-1")
    (checkpoint / "hf" / "model.safetensors").write_bytes(b"weig")
    (checkpoint / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError) as caught:
        verify(checkpoint)
    assert "hf/model.safetensors has 4 of 7 bytes" in str(caught.value)
    assert "optimizer.pt is missing" in str(caught.value)
    write(tmp_path / "step-2")
    (tmp_path / "step-2" / "optimizer.pt").write_bytes(b"momentz")
    with pytest.raises(CheckpointError, match=r"optimizer\.pt has other content"):
        verify(tmp_path / "step-2")


def test_a_directory_without_a_readable_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "step-1")
    (checkpoint / MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        verify(checkpoint)


def test_latest_counts_numbers_and_ignores_what_is_not_complete(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    for name in ("step-9", "step-10", ".partial-step-11"):
        write(tmp_path / name)
    (tmp_path / "step-12").mkdir()
    assert latest(tmp_path) == tmp_path / "step-10"


def test_prune_keeps_the_last_and_removes_leftovers(tmp_path: Path) -> None:
    for name in ("step-2", "step-10", "step-9", ".partial-step-11", ".replaced-step-9", "other"):
        write(tmp_path / name)
    prune(tmp_path, keep_last=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "step-10", "step-9"]
    with pytest.raises(ValueError, match="at least 1"):
        prune(tmp_path, keep_last=0)
