"""The record of a trained batch: written once, when the learner's report has come."""

import time
from collections.abc import Callable

from asyncds.fleet.membership import Fleet
from asyncds.protocol.records import StepRecord
from asyncds.rollout.curriculum import Curriculum
from asyncds.rollout.journal import Journal
from asyncds.rollout.lifecycle import OpenState
from asyncds.rollout.open_leases import OpenLeases
from asyncds.rollout.scheduler import Scheduler
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
        leases: OpenLeases,
        scheduler: Scheduler,
        weights: WeightSyncManager,
        curriculum: Curriculum,
        pace: Pace,
        tell: Callable[[Event], None],
    ) -> None:
        self._journal = journal
        self._fleet = fleet
        self._leases = leases
        self._scheduler = scheduler
        self._weights = weights
        self._curriculum = curriculum
        self._pace = pace
        self._tell = tell

    def trained(self, batch: TrainedBatch, now: float) -> None:
        """Record the batch."""
        self._pace.trained(batch.facts.tokens if batch.facts else 0, now)
        figures = self._weights.figures
        record = StepRecord(
            step=batch.step,
            version=self._scheduler.version_at(batch.step + 1),
            time=time.time(),
            batch=batch.facts,
            learner=batch.report,
            wall_seconds=self._pace.wall_seconds(now),
            tokens_per_second=self._pace.tokens_per_second,
            generated_tokens_per_second=self._fleet.tokens_per_second,
            outstanding=self._leases.outstanding,
            buffered=self._leases.count(OpenState.DELIVERED),
            healthy=len(self._fleet.healthy()),
            sync_seconds=figures.last_seconds,
            pause_seconds=figures.last_pause,
            curriculum=self._curriculum.facts(),
        )
        self._journal.add_step(record)
        self._tell(StepTrained(record=record, lags=batch.lags))
