"""Events of a run, for those who watch it: told after the journal's commit, never asked."""

from dataclasses import dataclass

from asyncds.fleet.weight_sync import SyncOutcome
from asyncds.protocol.records import EvaluationRecord, StepRecord


@dataclass(frozen=True, kw_only=True)
class StepTrained:
    """A batch was trained. lags: of each of its groups, in weight versions."""

    record: StepRecord
    lags: list[int]


@dataclass(frozen=True, kw_only=True)
class EvaluationFinished:
    """An evaluation has a result."""

    record: EvaluationRecord


@dataclass(frozen=True, kw_only=True)
class Rewound:
    """A learner joined: the journal may have gone back to an earlier step."""


@dataclass(frozen=True, kw_only=True)
class Stalled:
    """Nothing has moved for a while. reason: who waits for whom."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class SyncEnded:
    """A weight sync is over. now: when, by the clock that its own times are of."""

    outcome: SyncOutcome
    now: float


@dataclass(frozen=True, kw_only=True)
class TextsCame:
    """A group was delivered with its texts: the prompt's, then the completions'."""

    lease: int
    texts: list[str]


Event = StepTrained | EvaluationFinished | Rewound | Stalled | SyncEnded | TextsCame
