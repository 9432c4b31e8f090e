"""Checkpoints: the steps that the learner has saved, and which of them evaluated best."""

import json
from collections.abc import Iterable

from asyncds.config.engines import CheckpointConfig
from asyncds.config.sampling import EvalConfig
from asyncds.rollout.journal import Journal
from asyncds.rollout.retention import oldest_kept
from services.coordinator.evaluation import best_step


class CheckpointTracker:
    """Kept in the journal, so that a coordinator that starts again knows.

    newest: the step of the newest checkpoint, -1 while none is known. best: the step of the
    checkpoint that was evaluated best, None while none was. The journal is told the oldest one that
    a learner may go back to, should those after it be damaged.
    """

    def __init__(
        self, *, journal: Journal, evaluation: EvalConfig, checkpoint: CheckpointConfig
    ) -> None:
        self._journal = journal
        self._evaluation = evaluation
        self._checkpoint = checkpoint
        self._steps: list[int] = json.loads(journal.meta("checkpoints") or "[]")
        self.newest = journal.saved()
        self.evaluated()

    def saved(self, step: int) -> bool:
        """Take note that the learner has saved this step; returns whether that is news."""
        if step <= self.newest:
            return False
        self.newest = step
        self._journal.checkpointed(step)
        self._remember([*self._steps, step])
        return True

    def restarted(self, step: int) -> None:
        """A learner has begun from this checkpoint, 0 for the base model: later ones are void."""
        self.newest = -1
        self._journal.checkpointed(step)
        known = {earlier for earlier in self._steps if earlier < step}
        self._remember(sorted(known | ({step} if step else set())))

    def evaluated(self) -> None:
        """Look whether another one is the best now."""
        e = self._evaluation
        results = [r for r in self._journal.evaluations() if r.step in self._steps]
        self.best = (
            best_step(results, temperature=e.temperatures[0], k=e.pass_at[0]) if e.pass_at else None
        )
        c = self._checkpoint
        best = [self.best] if self.best is not None and c.keep_best else []
        self.oldest = oldest_kept(self._steps, keep_last=c.keep_last, kept=best)
        if self.oldest != self._journal.oldest_checkpoint():
            self._journal.set_meta("oldest_checkpoint", str(self.oldest))

    def keep(self, candidates: Iterable[int | None]) -> list[int]:
        """Steps that must not be deleted: the best, and the candidates for it."""
        return sorted({step for step in (self.best, *candidates) if step})

    def _remember(self, steps: list[int]) -> None:
        self._steps = steps
        self._journal.set_meta("checkpoints", json.dumps(steps))
        self.evaluated()
