"""How fast the run goes."""

from collections import deque

from asyncds.rollout.journal import Journal

STEPS = 20
"""Steps that the rate of training is a mean over."""


class Pace:
    """The run's wall time, kept in the journal, and the rate of training."""

    def __init__(self, *, journal: Journal, now: float) -> None:
        self._journal = journal
        self._before = float(journal.meta("wall_seconds") or 0) - now
        self._steps: deque[tuple[float, int]] = deque(maxlen=STEPS + 1)

    def wall_seconds(self, now: float) -> float:
        """Seconds since the run first started, without the time in which it did not run."""
        return self._before + now

    def trained(self, tokens: int, now: float) -> None:
        """A batch of so many tokens was trained."""
        self._steps.append((now, tokens))
        self.keep(now)

    def keep(self, now: float) -> None:
        """Have the journal know the wall time."""
        self._journal.set_meta("wall_seconds", str(self.wall_seconds(now)))

    @property
    def tokens_per_second(self) -> float | None:
        """Trained tokens a second over the last steps; None before the second."""
        if len(self._steps) < 2:
            return None
        (start, _), *rest = self._steps
        return sum(n for _, n in rest) / max(rest[-1][0] - start, 1e-9)
