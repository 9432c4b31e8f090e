"""Knights and Knaves puzzles that have exactly one solution.

On an island, knights always tell the truth and knaves always lie; everyone says one thing about who
is what. An assignment says of each person in turn whether they are a knight; a puzzle is solved by
the assignment under which exactly the knights' statements are true.
"""

import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from typing import Literal, get_args

Relation = Literal["same", "different", "both", "either", "neither"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)

Assignment = tuple[bool, ...]

MAX_PEOPLE = 6
ENUMERATED_PEOPLE = 3
"""The most people for whom all puzzles are enumerated: 3 have 6,859 sets of statements, 4 have
1,679,616."""


@dataclass(frozen=True, slots=True, order=True)
class Statement:
    """A statement about two people (numbers from 0, ascending).

    They are of the same kind, are of different kinds, are knights both, or at least one of them, or
    neither.

    About one person, ``first == second``: both (a knight) or neither (a knave).
    """

    relation: Relation
    first: int
    second: int

    def holds(self, knights: Assignment) -> bool:
        first, second = knights[self.first], knights[self.second]
        match self.relation:
            case "same":
                return first == second
            case "different":
                return first != second
            case "both":
                return first and second
            case "either":
                return first or second
            case "neither":
                return not (first or second)


Puzzle = tuple[Statement, ...]
"""The statement of each person."""


def statements(speaker: int, people: int) -> list[Statement]:
    """All that a person may say: what another one is, or how any two relate."""
    others = [person for person in range(people) if person != speaker]
    kinds: tuple[Relation, ...] = ("both", "neither")
    single = [Statement(kind, person, person) for person in others for kind in kinds]
    pairs = combinations(range(people), 2)
    return single + [Statement(kind, *pair) for pair in pairs for kind in RELATIONS]


def solutions(puzzle: Puzzle) -> list[Assignment]:
    """Every assignment that agrees with what is said."""
    mask = _agreeing_with_all(puzzle)
    return [a for i, a in enumerate(_assignments(len(puzzle))) if mask >> i & 1]


def every_puzzle(people: int) -> list[Puzzle]:
    """All puzzles with one solution, in the order of ``statements``."""
    said = product(*(statements(speaker, people) for speaker in range(people)))
    return [puzzle for puzzle in said if _has_one_solution(puzzle)]


def sample_puzzles(people: int, n: int, *, seed: int) -> list[Puzzle]:
    """``n`` different puzzles with one solution, from statements drawn uniformly.

    The same arguments give the same list, and a longer list begins with a shorter one. Raises
    ValueError where there seem to be no more.
    """
    rng = random.Random(seed)
    choices = [statements(speaker, people) for speaker in range(people)]
    found: dict[Puzzle, None] = {}
    attempts_left = 100 * (n + 1)
    while len(found) < n:
        if attempts_left == 0:
            raise ValueError(f"found only {len(found)} of {n} puzzles with {people} people")
        attempts_left -= 1
        puzzle = tuple(map(rng.choice, choices))
        if _has_one_solution(puzzle):
            found[puzzle] = None
    return list(found)


@lru_cache
def _assignments(people: int) -> list[Assignment]:
    return list(product((True, False), repeat=people))


@lru_cache(maxsize=4096)
def _agreeing(speaker: int, statement: Statement, people: int) -> int:
    """The assignments under which the speaker may say so: bit i stands for the i-th."""
    return sum(
        1 << i
        for i, knights in enumerate(_assignments(people))
        if knights[speaker] == statement.holds(knights)
    )


def _agreeing_with_all(puzzle: Puzzle) -> int:
    mask = (1 << 2 ** len(puzzle)) - 1
    for speaker, statement in enumerate(puzzle):
        mask &= _agreeing(speaker, statement, len(puzzle))
    return mask


def _has_one_solution(puzzle: Puzzle) -> bool:
    return _agreeing_with_all(puzzle).bit_count() == 1
