"""A curriculum: problems that are always solved, or never, come less often."""

import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from asyncds.config.sampling import CurriculumConfig
from asyncds.protocol.records import CurriculumFacts


class Difficulty(Enum):
    """A judgement on a problem by its last visits; BETWEEN also where they were too few to say."""

    SOLVED = "solved"
    HOPELESS = "hopeless"
    BETWEEN = "between"


@dataclass(frozen=True, order=True)
class Visit:
    """A group of a problem: its lease, and how many of its completions were right."""

    lease: int
    n: int
    n_correct: int


class Curriculum:
    """Measures how difficult problems are, and says whether one is to come now.

    Everything follows from the visits, in whatever order they are told, from the seed, and from how
    often the problem was passed by: so nothing has to be kept beside the journal.
    """

    def __init__(self, settings: CurriculumConfig, *, seed: int) -> None:
        self._settings = settings
        self._seed = seed
        self._visits: dict[int, list[Visit]] = {}
        self._difficulties: Counter[Difficulty] = Counter()
        self._mixed = 0

    def visited(self, row: int, visit: Visit) -> None:
        """A group of a row came. Of one row only the last few leases count."""
        before = self._visits.get(row, [])
        after = sorted([*before, visit])[-self._settings.visits :]
        self._count(before, -1)
        self._count(after, 1)
        self._visits[row] = after

    def restore(self, visits: Iterable[tuple[int, Visit]]) -> None:
        """Take over (row, visit) of an earlier life of the run."""
        for row, visit in visits:
            self.visited(row, visit)

    def difficulty(self, row: int) -> Difficulty:
        """How difficult a row is for the policy."""
        return self._judged(self._visits.get(row, []))

    def wanted(self, row: int, epoch: int) -> bool:
        """Whether a row is to come in an epoch."""
        if not self._settings.enabled or self.difficulty(row) is Difficulty.BETWEEN:
            return True
        chance: float = zlib.crc32(f"{self._seed}/{epoch}/{row}".encode()) / 2**32
        return chance < self._settings.least

    def facts(self) -> CurriculumFacts | None:
        """Shares of the problems that came so far; None before the first."""
        if not (n := len(self._visits)):
            return None
        shares = {one.value: self._difficulties[one] / n for one in Difficulty}
        return CurriculumFacts(problems=n, mixed=self._mixed / n, **shares)

    def _count(self, visits: list[Visit], by: int) -> None:
        if visits:
            self._difficulties[self._judged(visits)] += by
            self._mixed += by * (0 < visits[-1].n_correct < visits[-1].n)

    def _judged(self, visits: list[Visit]) -> Difficulty:
        if len(visits) < self._settings.visits:
            return Difficulty.BETWEEN
        share = sum(v.n_correct for v in visits) / sum(v.n for v in visits)
        if share >= self._settings.solved:
            return Difficulty.SOLVED
        return Difficulty.HOPELESS if share <= self._settings.hopeless else Difficulty.BETWEEN
