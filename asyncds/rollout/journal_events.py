"""Events of leases that a journal has recorded, for those who listen to it.

Times are in nanoseconds since the epoch.
"""

from dataclasses import dataclass

from asyncds.rollout.lifecycle import AttemptOutcome, LeaseState


@dataclass(frozen=True, kw_only=True)
class LeaseGranted:
    """A generator works on the lease."""

    lease: int
    at: int


@dataclass(frozen=True, kw_only=True)
class AttemptEnded:
    """An attempt ended without a group."""

    lease: int
    attempt: int
    generator: str | None
    outcome: AttemptOutcome
    reason: str
    at: int


@dataclass(frozen=True, kw_only=True)
class GroupDelivered:
    """A group came from `generator`, while `holder` worked on the lease. began: to be written."""

    lease: int
    generator: str
    holder: str | None
    attempt: int
    began: int
    at: int


@dataclass(frozen=True, kw_only=True)
class LeaseEnded:
    """The lease failed or was evicted, while `holder` worked on it."""

    lease: int
    state: LeaseState
    reason: str
    holder: str | None
    attempt: int
    at: int


@dataclass(frozen=True, kw_only=True)
class LeasesMoved:
    """Groups went on to `state`, or, with DELIVERED, back to it.

    step: of their batch, or of the checkpoint for COMMITTED, or that of the rewind.
    """

    leases: list[int]
    state: LeaseState
    step: int
    at: int


JournalEvent = LeaseGranted | AttemptEnded | GroupDelivered | LeaseEnded | LeasesMoved
