"""Hashes of a checkpoint's files: of what is written, as it is written; each read by one rank."""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from hypothesis import given
from hypothesis import strategies as st

from asyncds.engine.hashes import describe, differences, hashing, share


def test_what_deepspeed_writes_is_hashed_while_it_is_written(tmp_path: Path) -> None:
    """Its own writer and reader, without an engine around them."""
    for zipped in (True, False):
        writer = TorchCheckpointEngine()
        writer.zipfile_serialization = zipped
        state = {"weights": torch.arange(10_000.0), "more": [torch.ones(3, dtype=torch.bfloat16)]}
        path = tmp_path / f"{zipped}.pt"
        with hashing(cast(Any, SimpleNamespace(checkpoint_engine=writer))) as written:
            writer.save(state, str(path))
        assert written == {
            str(path): {
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
        }
        found = writer.load(str(path))
        assert torch.equal(found["weights"], state["weights"])
        writer.save(state, str(tmp_path / "later.pt"))
        assert list(written) == [str(path)], "afterwards it writes as ever"


def test_another_writer_writes_as_it_likes(tmp_path: Path) -> None:
    saved: list[str] = []
    writer = SimpleNamespace(save=lambda state, path: saved.append(path))
    with hashing(cast(Any, SimpleNamespace(checkpoint_engine=writer))) as written:
        writer.save({}, "there")
    assert (written, saved) == ({}, ["there"])


@given(
    st.dictionaries(st.text("abc/", min_size=1, max_size=5), st.integers(0, 1000), max_size=20),
    st.integers(1, 9),
)
def test_every_file_is_read_by_one_rank_and_all_read_about_as_much(
    sizes: dict[str, int], ranks: int
) -> None:
    files = {name: {"bytes": size, "sha256": ""} for name, size in sizes.items()}
    shares = [share(files, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert sorted(name for mine in shares for name in mine) == sorted(files)
    assert {name: f for mine in shares for name, f in mine.items()} == files
    loads = [sum(f["bytes"] for f in mine.values()) for mine in shares]
    assert max(loads) - min(loads) <= max(sizes.values(), default=0) + len(files)


def test_differences_are_named(tmp_path: Path) -> None:
    for name in ("same", "longer", "other"):
        (tmp_path / name).write_bytes(b"12345")
    files = describe([tmp_path / n for n in ("same", "longer", "other")], below=tmp_path)
    (tmp_path / "longer").write_bytes(b"123456")
    (tmp_path / "other").write_bytes(b"12346")
    gone = {"gone": {"bytes": 1, "sha256": ""}}
    # What a version that hashed no large files has written.
    old = {"same": {"bytes": 5}}
    assert differences(tmp_path, files | gone | old) == [
        "longer has 6 of 5 bytes",
        "other has other content than was written",
        "gone is missing",
    ]
