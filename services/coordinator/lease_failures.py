"""Failures of a run's leases, for training and for evaluations apart."""

from asyncds.protocol.wire import Delivered
from asyncds.rollout.failures import Failures
from asyncds.rollout.lifecycle import Purpose
from asyncds.rollout.open_leases import OpenLease
from services.coordinator.evaluation import EvaluationRound

_DONE = {Purpose.TRAIN: "trained on", Purpose.EVAL: "evaluated"}


class LeaseFailures:
    """Told how leases fare, it says when work may begin, and when none is worth beginning."""

    def __init__(self) -> None:
        self._of = {purpose: Failures() for purpose in Purpose}

    def expect(self, purpose: Purpose, rows: int) -> None:
        """Work on `rows` rows begins; what failed before is forgotten."""
        self._of[purpose] = Failures(rows=rows)

    def may_begin(self, purpose: Purpose, now: float) -> bool:
        """Whether another lease may be handed out."""
        return self._of[purpose].may_begin(now)

    def attempt(self, lease: OpenLease, reason: str, *, permanent: bool, now: float) -> None:
        """An attempt failed. permanent: another would too."""
        why = f"row {lease.row}: {reason}"
        self._of[lease.purpose].attempt_failed(reason=why, permanent=permanent, now=now)

    def given_up(self, lease: OpenLease) -> None:
        """No other attempt will be made."""
        self._of[lease.purpose].given_up(lease.row)

    def delivered(
        self, lease: OpenLease, message: Delivered, *, completions: int, now: float
    ) -> None:
        """Take note of a group that came.

        One in which nothing could be judged teaches nothing, so it counts as one that failed. One
        in which nothing could be judged teaches nothing, so it counts as one that failed.
        """
        if message.score_errors < completions:
            self._of[lease.purpose].delivered()
            return
        reason = f"no completion could be scored: {message.score_error}"
        self.attempt(lease, reason, permanent=False, now=now)
        self.given_up(lease)

    def hopeless(self, now: float, round: EvaluationRound | None) -> str:
        """Why no group will come any more, in a sentence; "" if one may. round: the open one."""
        for purpose, failures in self._of.items():
            if why := failures.hopeless(now):
                return f"nothing can be {_DONE[purpose]}: {why}"
        if round is not None and round.complete and not round.evaluated:
            return f"nothing can be evaluated: {self._of[Purpose.EVAL].told()}"
        return ""

    def told(self) -> str:
        """A sentence about what fails while the run goes on, or ""."""
        return "; ".join(filter(None, (failures.told() for failures in self._of.values())))
