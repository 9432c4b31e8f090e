"""The parts of a checkpoint that need no engine: what is complete, whole, or to be removed."""

import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from asyncds.engine.checkpoint import (
    MANIFEST,
    CheckpointError,
    load,
    newest,
    prune,
    verify,
)
from asyncds.engine.hashes import Files, describe
from asyncds.engine.training import TrainingEngine

LAYOUT = {"ranks": 2, "zero_stage": 3, "dtype": "float32"}


def described(directory: Path) -> Files:
    return describe([path for path in directory.rglob("*") if path.is_file()], below=directory)


def write(directory: Path) -> Path:
    (directory / "hf").mkdir(parents=True)
    (directory / "hf" / "model.safetensors").write_bytes(b"weights")
    (directory / "optimizer.pt").write_bytes(b"moments")
    manifest = {**LAYOUT, "state": {}, "files": described(directory)}
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


@pytest.mark.parametrize("change", [{"ranks": 4}, {"zero_stage": 1}, {"dtype": "bfloat16"}])
def test_another_layout_is_refused_with_a_way_out(tmp_path: Path, change: dict[str, Any]) -> None:
    engine = cast(TrainingEngine, SimpleNamespace(adapter=None, **{**LAYOUT, **change}))
    ((key, mine),) = change.items()
    with pytest.raises(CheckpointError, match=rf"{key} = {LAYOUT[key]}, this run has {mine}") as e:
        load(engine, write(tmp_path / "step-1"))
    assert str(tmp_path / "step-1" / "hf") in str(e.value)


def test_an_adapter_is_loaded_by_a_run_that_trains_one_like_it(tmp_path: Path) -> None:
    mine = {"r": 8, "lora_alpha": 16, "use_rslora": False, "target_modules": ["q_proj"]}
    engine = cast(TrainingEngine, SimpleNamespace(adapter={**mine, "more": 1}, **LAYOUT))
    with pytest.raises(CheckpointError, match=r"saved with lora = None, this run has .*q_proj"):
        load(engine, write(tmp_path / "step-1"))
    checkpoint = write(tmp_path / "step-2")
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    (checkpoint / MANIFEST).write_text(json.dumps({**manifest, "lora": {**mine, "r": 4}}))
    with pytest.raises(CheckpointError, match="from the model that `asyncds export` makes of it"):
        load(engine, checkpoint)


def test_large_files_are_hashed_too_and_not_read_at_once(tmp_path: Path) -> None:
    checkpoint = tmp_path / "step-1"
    checkpoint.mkdir()
    size = 64 * 2**20
    with (checkpoint / "optimizer.pt").open("wb") as file:
        file.truncate(size)
    tracemalloc.start()
    files = described(checkpoint)
    (checkpoint / MANIFEST).write_text(json.dumps({**LAYOUT, "state": {}, "files": files}))
    verify(checkpoint)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < size / 8
    with (checkpoint / "optimizer.pt").open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\1")
    with pytest.raises(CheckpointError, match=r"optimizer\.pt has other content"):
        verify(checkpoint)


def test_the_newest_whole_one_is_used_and_damaged_ones_are_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (2, 4, 6, 8):
        write(tmp_path / f"step-{step}")
    (tmp_path / "step-6" / "optimizer.pt").write_bytes(b"moment")
    (tmp_path / "step-8" / MANIFEST).write_text('{"files": ')
    assert newest(tmp_path) == tmp_path / "step-4"
    assert "optimizer.pt has 6 of 7 bytes. It is now damaged-step-6; starting" in caplog.text
    assert "step-8 is not a checkpoint" in caplog.text
    write(tmp_path / "step-5")
    prune(tmp_path, keep_last=1)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["damaged-step-6", "damaged-step-8", "step-5"]
    assert newest(tmp_path) == tmp_path / "step-5"


def test_if_all_are_damaged_nothing_is_touched_and_nothing_starts(tmp_path: Path) -> None:
    for step in (2, 4):
        (write(tmp_path / f"step-{step}") / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"step-4: optimizer\.pt is missing\. .*step-2.*move"):
        newest(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-2", "step-4"]


@pytest.mark.parametrize("manifest", ["[]", "{}", '{"files": {}}', "\0"])
def test_a_manifest_that_says_too_little_is_none(tmp_path: Path, manifest: str) -> None:
    checkpoint = write(tmp_path / "step-1")
    (checkpoint / MANIFEST).write_text(manifest)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        verify(checkpoint)


def test_newest_counts_numbers_and_ignores_what_is_not_complete(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    for name in ("step-9", "step-10", ".partial-step-11"):
        write(tmp_path / name)
    (tmp_path / "step-12").mkdir()
    assert newest(tmp_path) == tmp_path / "step-10"


def test_prune_keeps_the_last_and_removes_leftovers(tmp_path: Path) -> None:
    for name in ("step-2", "step-10", "step-9", ".partial-step-11", ".replaced-step-9", "other"):
        write(tmp_path / name)
    prune(tmp_path, keep_last=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "step-10", "step-9"]
    with pytest.raises(ValueError, match="at least 1"):
        prune(tmp_path, keep_last=0)


def test_prune_keeps_what_it_is_told_to(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        write(tmp_path / f"step-{step}")
    prune(tmp_path, keep_last=1, keep=[2, 4, 9])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-2", "step-4"]
