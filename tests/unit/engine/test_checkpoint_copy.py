"""Copies of what a checkpoint consists of, and whether there is memory for them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncds.engine import checkpoint_copy
from asyncds.engine.checkpoint_copy import Part, copied, fits_everywhere
from asyncds.engine.hashes import save_hashed


class Scale:
    """Something of DeepSpeed's own that a state may hold, and that changes with training."""

    def __init__(self) -> None:
        self.now = [1.0]


def make_state() -> dict[str, Any]:
    tied = torch.arange(1000.0)
    return {
        "embed": tied,
        "head": tied.detach(),
        "optimizer": [{"moment": torch.ones(3, dtype=torch.bfloat16)}, (torch.zeros(0), "adam")],
        "scale": Scale(),
        "steps": [1, 2],
    }


def test_what_is_trained_on_does_not_change_a_copy() -> None:
    state = make_state()
    copy = copied(state)
    state["embed"].add_(1)
    state["optimizer"][0]["moment"].zero_()
    state["scale"].now[0] = 2.0
    state["steps"].append(3)
    assert torch.equal(copy["embed"], torch.arange(1000.0))
    assert copy["optimizer"][0]["moment"].tolist() == [1, 1, 1]
    assert copy["optimizer"][1][1] == "adam"
    assert (copy["scale"].now, copy["steps"]) == ([1.0], [1, 2])


def test_tied_weights_stay_tied_and_take_memory_once() -> None:
    state = make_state()
    copy = copied(state)
    assert copy["embed"].data_ptr() == copy["head"].data_ptr() != state["head"].data_ptr()
    part = Part(directory=Path(), files={Path("a"): state}, weights={"head": state["head"]})
    assert part.size == 1000 * 4 + 3 * 2
    gathered = replace(part, gathered=True)
    assert gathered.copied().weights["head"] is part.weights["head"], "it is a copy already"
    twice = part.copied()
    assert twice.weights["head"].data_ptr() == twice.files[Path("a")]["embed"].data_ptr()


def test_a_copy_is_written_like_what_it_was_made_of(tmp_path: Path) -> None:
    state = {key: value for key, value in make_state().items() if key != "scale"}
    save_hashed(state, tmp_path / "state.pt")
    save_hashed(copied(state), tmp_path / "copy.pt")
    loaded = [torch.load(tmp_path / f"{name}.pt") for name in ("state", "copy")]
    assert str(loaded[0]) == str(loaded[1])


@pytest.mark.parametrize(
    ("told", "fits"),
    [
        ([("a", 100, 200)], True),
        ([("a", 100, 105)], False),  # others allocate meanwhile
        ([("a", 100, 200), ("a", 100, 200)], False),
        ([("a", 100, 200), ("b", 100, 200)], True),
        ([("a", 100, 200), ("b", 100, 90)], False),
    ],
)
def test_the_copies_of_a_machines_ranks_must_fit(
    monkeypatch: pytest.MonkeyPatch, told: list[tuple[str, int, int]], fits: bool
) -> None:
    """The other ranks are mocked."""
    monkeypatch.setattr(checkpoint_copy, "gathered", lambda mine: told)
    assert fits_everywhere(100) is fits
