"""The parts of a coordinator, put together from the configuration and the journal."""

from collections.abc import Callable
from dataclasses import dataclass

from asyncds.config.schema import RunConfig
from asyncds.config.tasks import task_weights
from asyncds.fleet.arrivals import Arrivals
from asyncds.fleet.membership import Fleet
from asyncds.fleet.probe_level import ProbeLevel
from asyncds.fleet.weight_sync import WeightSync
from asyncds.protocol.wire import Message
from asyncds.rollout.curriculum import Curriculum, Visit
from asyncds.rollout.journal import Journal
from asyncds.rollout.open_leases import OpenLeases
from asyncds.rollout.scheduler import Scheduler
from services.coordinator.batch_facts import BatchMeasure
from services.coordinator.batches import BatchServer
from services.coordinator.checkpoints import CheckpointTracker
from services.coordinator.deliveries import Deliveries
from services.coordinator.dynamic_sampling import DynamicSampling, Signal
from services.coordinator.evaluations import Evaluations
from services.coordinator.events import Event, SyncEnded
from services.coordinator.grants import Grants
from services.coordinator.group_checks import GroupChecks
from services.coordinator.leases import LeaseBook
from services.coordinator.pace import Pace
from services.coordinator.prompts import TrainingPrompts
from services.coordinator.rejected_frames import RejectedFrames
from services.coordinator.retention import Retention
from services.coordinator.steps import StepRecorder
from services.coordinator.task_facts import TaskFacts
from services.coordinator.watchdog import Watchdog
from services.coordinator.weight_syncs import LATE_SECONDS, LEARNER, WeightSyncManager
from services.coordinator.worker_group import WorkerGroup

BASE_VERSION = 0
"""The version of the weights of the model that a run begins with."""
SYNCS_PER_START = 1_000_000
"""Weight syncs are numbered from another such multiple whenever the coordinator starts."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts that the coordinator's services work on; each writes its own state only."""

    config: RunConfig
    journal: Journal
    arrivals: Arrivals
    fleet: Fleet
    scheduler: Scheduler
    task: TaskFacts
    leases: LeaseBook
    grants: Grants
    deliveries: Deliveries
    batches: BatchServer
    weights: WeightSyncManager
    checkpoints: CheckpointTracker
    evaluations: Evaluations
    learner: WorkerGroup
    steps: StepRecorder
    pace: Pace
    retention: Retention
    watchdog: Watchdog


def make_parts(
    *,
    config: RunConfig,
    journal: Journal,
    rejected: RejectedFrames,
    send: Callable[[bytes, Message], None],
    tell: Callable[[Event], None],
    now: float,
) -> Parts:
    """The parts of a run that begins, or goes on where the journal stands."""
    r, c, w = config.rollout, config.coordinator, config.weights
    fleet = Fleet(suspect_seconds=c.suspect_seconds, dead_seconds=c.dead_seconds)
    task, open_leases = TaskFacts(), OpenLeases(next_id=journal.next_lease_id())
    scheduler = Scheduler(
        leases=open_leases,
        groups_per_step=r.groups_per_step,
        target_lag=r.resolved_target_lag,
        max_lag=r.max_lag,
        window=r.resolved_window,
        publish_every=w.publish_every,
        total_steps=config.steps,
        hold=r.hold,
    )
    curriculum = Curriculum(r.curriculum, seed=config.seed)
    curriculum.restore((row, Visit(*visit)) for row, *visit in journal.visits())
    prompts = TrainingPrompts(
        seed=config.seed,
        weights=task_weights(config.task),
        curriculum=curriculum,
        journal=journal,
        task=task,
    )
    leases = LeaseBook(
        config=config,
        journal=journal,
        open=open_leases,
        scheduler=scheduler,
        prompts=prompts,
        fleet=fleet,
        send=send,
    )
    checks = GroupChecks(rollout=r, journal=journal, task=task)
    signal = Signal(config)
    batches = BatchServer(
        journal=journal,
        leases=leases,
        measure=BatchMeasure(signal=signal, task=task),
        version_at=scheduler.version_at,
        send=send,
    )
    starts = int(journal.meta("starts") or 0)
    journal.set_meta("starts", str(starts + 1))
    weights = WeightSyncManager(
        fleet=fleet,
        sync=WeightSync(
            learner=LEARNER,
            prepare_seconds=w.prepare_seconds,
            transfer_seconds=w.transfer_seconds,
            late_seconds=LATE_SECONDS,
            probe_level=ProbeLevel(dtype=config.dtype, given=w.probe_tolerance),
            first=1 + starts * SYNCS_PER_START,
        ),
        probe_every=w.probe_every,
        send=send,
        on_go=checks.expect_version,
        on_mismatch=leases.distrust,
        on_end=lambda outcome, now: tell(SyncEnded(outcome=outcome, now=now)),
    )
    checkpoints = CheckpointTracker(
        journal=journal, evaluation=config.eval, checkpoint=config.checkpoint
    )
    watchdog = Watchdog(seconds=c.watch_seconds, now=now)
    pace = Pace(journal=journal, now=now)
    trained, selected = journal.progress()
    if config.trains:  # other weights may come; those that nothing changes are evaluated on
        journal.drop_evaluations()
    leases.restore(selected)
    batches.restore(trained, ranks=1)
    return Parts(
        config=config,
        journal=journal,
        arrivals=Arrivals(),
        fleet=fleet,
        scheduler=scheduler,
        task=task,
        leases=leases,
        grants=Grants(
            leases=leases, scheduler=scheduler, prompts=prompts, task=task, fleet=fleet, send=send
        ),
        deliveries=Deliveries(
            leases=leases,
            scheduler=scheduler,
            journal=journal,
            checks=checks,
            dynamic_sampling=DynamicSampling(config=config, signal=signal, journal=journal),
            curriculum=curriculum,
            reject=rejected.add,
        ),
        batches=batches,
        weights=weights,
        checkpoints=checkpoints,
        evaluations=Evaluations(
            config=config,
            journal=journal,
            fleet=fleet,
            leases=leases,
            task=task,
            weights=weights,
            checkpoints=checkpoints,
            watchdog=watchdog,
            tell=tell,
        ),
        learner=WorkerGroup(now=now),
        steps=StepRecorder(
            journal=journal,
            fleet=fleet,
            leases=open_leases,
            scheduler=scheduler,
            weights=weights,
            curriculum=curriculum,
            pace=pace,
            tell=tell,
        ),
        pace=pace,
        retention=Retention(journal=journal, limit_bytes=int(c.journal_gb * 2**30)),
        watchdog=watchdog,
    )
