"""Counters of what became of leases."""

from collections import Counter
from dataclasses import dataclass, field

from asyncds.rollout.lifecycle import DropReason, LeaseEvent


@dataclass(kw_only=True)
class LeaseCounts:
    """Events since this process started, for metrics."""

    tokens: int = 0
    events: Counter[LeaseEvent] = field(default_factory=Counter)
    dropped: Counter[DropReason] = field(default_factory=Counter)
