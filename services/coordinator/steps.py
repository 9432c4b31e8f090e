"""The record of a trained batch: written once, when the learner's report has come."""

import time
from collections.abc import Callable

from asyncds.fleet.membership import Fleet
from asyncds.protocol.records import StepRecord
from asyncds.rollout.journal import Journal
from asyncds.rollout.scheduler import Scheduler, TicketState
from services.coordinator.batches import TrainedBatch
from services.coordinator.events import Event, StepTrained
from services.coordinator.pace import Pace
from services.coordinator.weight_syncs import WeightSyncManager


class StepRecorder:
    """Adds what the coordinator knows of the run at that moment to what is known of the batch."""

    def __init__(
        self,
        *,
        journal: Journal,
        fleet: Fleet,
        scheduler: Scheduler,
        weights: WeightSyncManager,
        pace: Pace,
        tell: Callable[[Event], None],
    ) -> None:
        self._journal = journal
        self._fleet = fleet
        self._scheduler = scheduler
        self._weights = weights
        self._pace = pace
        self._tell = tell

    def trained(self, batch: TrainedBatch, now: float) -> None:
        """Record the batch."""
        self._pace.trained(batch.facts.tokens if batch.facts else 0, now)
        weights = self._weights
        record = StepRecord(
            step=batch.step,
            version=self._scheduler.version_at(batch.step + 1),
            time=time.time(),
            batch=batch.facts,
            learner=batch.report,
            wall_seconds=self._pace.wall_seconds(now),
            tokens_per_second=self._pace.tokens_per_second,
            generated_tokens_per_second=self._fleet.tokens_per_second,
            outstanding=self._scheduler.outstanding,
            buffered=self._scheduler.count(TicketState.DELIVERED),
            healthy=len(self._fleet.healthy()),
            sync_seconds=weights.seconds[-1] if weights.seconds else None,
            pause_seconds=weights.pauses[-1] if weights.pauses else None,
        )
        self._journal.add_step(record)
        self._tell(StepTrained(record=record, lags=batch.lags))
