"""Evaluations: when a round begins, what becomes of it."""

import logging
from collections.abc import Callable

from asyncds.config.schema import RunConfig
from asyncds.fleet.membership import Fleet, Health
from asyncds.rollout.journal import Journal
from services.coordinator.checkpoints import CheckpointTracker
from services.coordinator.evaluation import Due, EvaluationPlan, evaluated_rows
from services.coordinator.events import EvaluationFinished, Event
from services.coordinator.leases import LeaseBook
from services.coordinator.task_facts import TaskFacts
from services.coordinator.watchdog import Watchdog
from services.coordinator.weight_syncs import WeightSyncManager

log = logging.getLogger(__name__)


class Evaluations:
    """Opens a round when one is due and its weights are served, and records its results."""

    def __init__(
        self,
        *,
        config: RunConfig,
        journal: Journal,
        fleet: Fleet,
        leases: LeaseBook,
        task: TaskFacts,
        weights: WeightSyncManager,
        checkpoints: CheckpointTracker,
        watchdog: Watchdog,
        tell: Callable[[Event], None],
    ) -> None:
        self._config = config
        self._journal = journal
        self._fleet = fleet
        self._leases = leases
        self._task = task
        self._weights = weights
        self._checkpoints = checkpoints
        self._watchdog = watchdog
        self._tell = tell
        self.any_finished = False
        """Whether this process has finished one."""
        self.plan_again()

    def plan_again(self) -> None:
        """Plan what the journal has no result of."""
        e = self._config.eval
        self.plan = EvaluationPlan(
            every=e.every,
            n_samples=e.n_samples,
            interim_samples=e.interim_samples,
            steps=self._config.steps,
        )
        self.plan.skip_done([done.step for done in self._journal.evaluations()])

    def turn(self, now: float) -> None:
        """Begin a round that is due; end one that is complete, or that nobody can go on with."""
        round = self._leases.round
        if round is None:
            self._begin(now)
        elif round.complete:
            self._finish(now)
        elif not any(m.health in (Health.HEALTHY, Health.SUSPECT) for m in self._fleet):
            log.warning("evaluation of version %d given up: no generator has it", round.version)
            self.drop()

    def drop(self) -> None:
        """Give up the round that is open, if one is; without a learner it can be taken up again."""
        if self._leases.round is not None:
            if self._config.trains:
                self._journal.drop_evaluations()
            self._leases.close_round()

    def _begin(self, now: float) -> None:
        due = self._due()
        if due is None or not self._task.rows or not self._fleet.healthy():
            return
        published = self._weights.published
        step = min(published * self._config.weights.publish_every, self._config.steps)
        held_out = self._task.rows[self._config.eval.split]
        self._leases.open_round(
            version=published,
            step=step,
            n_samples=due.n_samples,
            rows=evaluated_rows(held_out, self._task.sets, self._config.eval.n_problems),
        )
        self._watchdog.moved(now)

    def _finish(self, now: float) -> None:
        round = self._leases.round
        assert round is not None
        e = self._config.eval
        results = round.results(
            split=e.split,
            pass_at=e.pass_at,
            multiplicity=self._task.multiplicity,
            sets=self._task.sets,
        )
        for result in results:
            self._journal.finish_evaluation(result)
            self._tell(EvaluationFinished(record=result))
        self._leases.close_round()
        self.any_finished = True
        self.plan.done()
        self._checkpoints.evaluated()
        self._watchdog.moved(now)

    def _due(self) -> Due | None:
        published = self._weights.published
        if self._weights.current is not None or not self._leases.accepting or published < 0:
            return None
        every, steps = self._config.weights.publish_every, self._config.steps
        last = published == steps // every
        return self.plan.due(steps if last else published * every, base=published == 0)
