"""Two worker groups at one directory of checkpoints: one that saves, and one that takes over."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncds.engine.checkpoint import newest, prune
from asyncds.engine.checkpoint_owner import (
    PARTIAL,
    ReplacedError,
    confirm,
    put_in_place,
    take_over,
)
from tests.unit.engine.test_checkpoint import write

OPERATIONS = ("rename", "replace", "read_text", "glob", "open")
"""Of a directory, between which the other group may act."""


class Race:
    """Has `other` act once, before the operation with number `at` of whoever acts first."""

    def __init__(self, at: int, other: Callable[[], None]) -> None:
        self._at = at
        self._other = other
        self._begun = 0
        self.happened = False

    def before_an_operation(self) -> None:
        self._begun += 1
        if self._begun == self._at and not self.happened:
            self.happened = True
            self._other()


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Race]]:
    """The one that is put into it is on."""
    on: list[Race] = []

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            if on:
                on[0].before_an_operation()
            return original(*arguments, **options)

        return operation

    for name in OPERATIONS:
        monkeypatch.setattr(Path, name, watched(getattr(Path, name)))
    yield on
    on.clear()


@pytest.mark.parametrize("first", ["the one that saves", "the newcomer"])
@pytest.mark.parametrize("at", range(1, 15))
def test_what_the_newcomer_does_not_see_never_appears(
    race: list[Race], tmp_path: Path, first: str, at: int
) -> None:
    """Whenever it comes while a checkpoint is put in place, or that happens while it comes."""
    take_over(tmp_path, "old")
    prepared = write(tmp_path / f"{PARTIAL}step-4-old")
    saved: list[bool] = []
    seen: list[Path | None] = []

    def save() -> None:
        try:
            put_in_place(prepared, tmp_path / "step-4", "old")
        except ReplacedError:
            saved.append(False)
        else:
            saved.append(True)

    def come() -> None:
        take_over(tmp_path, "new")
        seen.append(newest(tmp_path))

    act, other = (save, come) if first == "the one that saves" else (come, save)
    race.append(Race(at, other))
    act()
    if not race.pop().happened:
        other()
    assert saved == [seen == [tmp_path / "step-4"]]
    assert newest(tmp_path) == seen[0]
    with pytest.raises(ReplacedError):
        confirm(tmp_path, "old")


def test_the_owner_writes_again_and_again(tmp_path: Path) -> None:
    take_over(tmp_path, "mine")
    for step in (1, 2, 2):
        put_in_place(write(tmp_path / f"{PARTIAL}step-{step}"), tmp_path / f"step-{step}", "mine")
    assert newest(tmp_path) == tmp_path / "step-2"
    prune(tmp_path, keep_last=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["owner", "step-2"]


def test_a_checkpoint_of_the_same_step_stays_if_there_is_another_owner(tmp_path: Path) -> None:
    take_over(tmp_path, "old")
    put_in_place(write(tmp_path / f"{PARTIAL}step-4-old"), tmp_path / "step-4", "old")
    late = write(tmp_path / f"{PARTIAL}step-4-late")
    take_over(tmp_path, "new")
    with pytest.raises(ReplacedError, match="another learner has taken over"):
        put_in_place(late, tmp_path / "step-4", "old")
    assert newest(tmp_path) == tmp_path / "step-4"
    assert not late.exists()
