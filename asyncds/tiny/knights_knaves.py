"""Knowledge of the tiny base model of Knights and Knaves: words, and puzzles it is taught."""

from collections.abc import Iterator

from asyncds.tasks.knights_knaves.prompts import (
    KNAVE,
    KNIGHT,
    LETTERS,
    SIGNS,
    plain,
    plain_answer,
)
from asyncds.tasks.knights_knaves.puzzles import solutions
from asyncds.tasks.knights_knaves.task import train_and_held_out
from asyncds.tiny.demonstrations import Group

WORDS = (*LETTERS, KNIGHT, KNAVE, *SIGNS.values(), *";:")


def taught(people: int, *, held_out: int, seed: int) -> Iterator[Group]:
    """Puzzles and their solution, but for those that are held out.

    The ``held_out`` ones are those that a task of the same ``seed`` holds out. All are one group,
    in which every assignment is about equally frequent.
    """
    train, _ = train_and_held_out(people, held_out, seed=seed)
    yield [
        (plain(puzzle), [plain_answer(knights) for knights in solutions(puzzle)])
        for puzzle in train
    ]
