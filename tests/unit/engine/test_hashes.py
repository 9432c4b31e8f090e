"""Hashes of a checkpoint's files: of what is written, as it is written; each read by one rank."""

import hashlib
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from asyncds.engine.hashes import describe, differences, save_hashed, share


def test_what_is_written_is_hashed_meanwhile(tmp_path: Path) -> None:
    state = {"weights": torch.arange(10_000.0), "more": [torch.ones(3, dtype=torch.bfloat16)]}
    path = tmp_path / "state.pt"
    assert save_hashed(state, path) == {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert torch.equal(torch.load(path)["weights"], state["weights"])


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
