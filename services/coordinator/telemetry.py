"""The coordinator's telemetry: metrics.jsonl, summary.json, Prometheus series."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from asyncds.config.schema import RunConfig
from asyncds.fleet.membership import Health
from asyncds.fleet.weight_sync import SyncOutcome, SyncResult
from asyncds.protocol.records import EvaluationRecord, HeldOutStatus, RunStatus, StepRecord
from asyncds.protocol.state import State
from asyncds.rollout.journal import Journal
from asyncds.rollout.lifecycle import DropReason, LeaseEvent, OpenState
from asyncds.telemetry.live.view import SAMPLES
from asyncds.telemetry.metrics.registry import Metrics
from asyncds.telemetry.metrics.values import batch_values, evaluation_values
from asyncds.telemetry.state_dump import dump_state
from asyncds.telemetry.summary import Summary, diagnose, percentiles, read_summary, write_summary
from services.coordinator.coordinator import Coordinator
from services.coordinator.events import (
    EvaluationFinished,
    Event,
    Rewound,
    Stalled,
    StepTrained,
    SyncEnded,
    TextsCame,
)
from services.coordinator.live_page import LivePage
from services.coordinator.run_records import RunRecords

log = logging.getLogger(__name__)

OF_BATCHES = (LeaseEvent.BATCHED, LeaseEvent.CONSUMED)
"""Events that are counted when a batch is trained; the lease book counts the others."""


class CoordinatorTelemetry:
    """Turns what happened, and what the coordinator knows, into files and series."""

    def __init__(
        self,
        *,
        coordinator: Coordinator,
        config: RunConfig,
        run_dir: Path,
        journal: Journal,
        metrics: Metrics,
    ) -> None:
        self._coordinator = coordinator
        self._config = config
        self._run_dir = run_dir
        self._journal = journal
        self._metrics = metrics
        self._records = RunRecords(journal=journal, run_dir=run_dir)
        self._dropped_before = _by_kind(journal.ended())
        self._seen: Counter[str] = Counter()
        self.page = LivePage(config=config, run_dir=run_dir)
        metrics.gauge("lag_bound").set(config.rollout.max_lag)

    def tell(self, events: Iterable[Event], now: float) -> None:
        """Take note of what happened, in order."""
        for event in events:
            match event:
                case StepTrained():
                    self._step(event.record, event.lags)
                case EvaluationFinished():
                    self._evaluation(event.record)
                case Rewound():
                    self._records.rewound()
                case SyncEnded():
                    self._sync(event.outcome, event.now)
                case Stalled():
                    self._stall(event.reason, now)
                case TextsCame():
                    self.page.texts_came(event.lease, event.texts)

    def _step(self, record: StepRecord, lags: list[int]) -> None:
        self._records.step(record)
        m, batch = self._metrics, record.batch
        m.counter("steps_total").inc()
        for lag in lags:
            m.histogram("lag").observe(lag)
        if batch is None:
            return
        m.counter("tokens_trained_total").inc(batch.tokens)
        for event in OF_BATCHES:
            m.counter("groups_total", event=event).inc(batch.groups)
        m.record("batch", batch_values(record.line(), "coordinator"))

    def _sync(self, outcome: SyncOutcome, now: float) -> None:
        """A weight sync is over."""
        m = self._metrics
        m.counter("syncs_total", result=outcome.result).inc()
        if outcome.distances:
            m.gauge("probe_distance").set(max(outcome.distances.values()))
            m.gauge("probe_level").set(outcome.level)
        if outcome.result is SyncResult.OK:
            m.histogram("sync_seconds").observe(now - outcome.sync.started)
            if outcome.sync.sent is not None and outcome.sync.sent.seconds is not None:
                m.histogram("sync_send_seconds").observe(outcome.sync.sent.seconds)

    def _stall(self, reason: str, now: float) -> None:
        """Count that nothing moves, and write down what the coordinator knows."""
        self._metrics.counter("stalls_total").inc()
        state = self._coordinator.status(now)
        folder = self._run_dir / "dumps"
        path = dump_state(folder, name="coordinator", reason=reason, state=state.plain())
        log.error("what every process is doing: %s", path.parent)

    def _evaluation(self, record: EvaluationRecord) -> None:
        self._records.evaluation(record)
        values = evaluation_values(record.result())
        self._metrics.record("evaluation", values, temperature=f"{record.temperature:g}")

    def sample(self, now: float) -> None:
        """Bring gauges and counters up to date."""
        parts = self._coordinator.parts
        m, leases, weights = self._metrics, parts.leases, parts.weights
        m.gauge("policy_version").set(max(weights.published, 0))
        m.gauge("outstanding_groups").set(leases.open.outstanding)
        m.gauge("buffered_groups").set(leases.open.count(OpenState.DELIVERED))
        m.gauge("lease_age_seconds").set(leases.open.oldest_seconds(now))
        health = Counter(member.health for member in parts.fleet)
        for state in Health:
            m.gauge("members", health=state.value).set(health[state])
        for end in State:
            if end.final:
                m.gauge("over", end=end).set(self._coordinator.state is end)
        for event in set(LeaseEvent) - set(OF_BATCHES):
            self._advance(f"event/{event}", leases.counts.events[event], event=event)
        for reason, n in leases.counts.dropped.items():
            self._advance(f"reason/{reason}", n, name="groups_dropped_total", reason=reason)
        self._advance("tokens", leases.counts.tokens, name="tokens_generated_total")
        self._advance("rejected", self._coordinator.rejected.count, name="rejected_frames_total")
        files = [self._journal.path, Path(f"{self._journal.path}-wal")]
        m.gauge("journal_bytes").set(sum(f.stat().st_size for f in files if f.exists()))
        m.gauge("journal_exceeded").set(parts.retention.exceeded)
        self._advance("deleted", parts.retention.deleted, name="samples_deleted_total")
        self.look_at_disk()
        if self.page.due(now):
            self.page.publish(self.status(now), now)

    def look_at_disk(self) -> None:
        """Bring the gauges of the disk up to date."""
        disk = shutil.disk_usage(self._run_dir)
        self._metrics.gauge("disk_free_bytes").set(disk.free)
        self._metrics.gauge("disk_size_bytes").set(disk.total)

    def wait_for_room(self, why: str, now: float) -> RunStatus:
        """The coordinator does nothing for now. Returns the status that is shown meanwhile."""
        self._metrics.gauge("disk_full").set(1)
        status = replace(self.status(now), message=why, waiting_for="everybody waits for room")
        self.page.publish(status, now)
        return status

    def connections(self, rejected: Mapping[str, int]) -> None:
        """rejected: connections turned away so far, by reason."""
        for reason, n in rejected.items():
            name = "rejected_connections_total"
            self._advance(f"connection/{reason}", n, name=name, reason=reason)

    def _advance(self, key: str, total: int, *, name: str = "groups_total", **labels: str) -> None:
        self._metrics.counter(name, **labels).inc(total - self._seen[key])
        self._seen[key] = total

    def status(self, now: float) -> RunStatus:
        """The run as people see it: what the coordinator knows, and its progress."""
        status = self._coordinator.status(now)
        records = self._records
        last = records.last
        measured = last.learner if last else {}
        total, waited = measured.get("seconds_total"), measured.get("seconds_wait")
        idle = waited / total if total and waited is not None else None
        batch = last.batch if last else None
        counts = self._coordinator.parts.leases.counts
        samples = min(counts.events[LeaseEvent.DELIVERED], SAMPLES)
        first = self._config.eval.temperatures[0]
        shown = [e for e in records.evaluations if e.temperature == first]
        return replace(
            status,
            learner=replace(status.learner, idle_fraction=idle),
            fleet=[replace(m, mismatch=_mismatch(measured, m.name)) for m in status.fleet],
            page=self.page.address,
            revision=f"{records.revision}.{samples}",
            dropped={str(k): n for k, n in (self._dropped_before + counts.dropped).items()},
            reward=batch and batch.reward,
            correct=batch and batch.correct,
            distinct_correct=batch and batch.distinct_correct,
            lag_mean=batch and batch.lag_mean,
            lag_max=batch and batch.lag_max,
            pass_=shown[-1].pass_at_k if shown else None,
            base_pass=shown[0].pass_at_k if shown else None,
            held_out=_held_out(shown),
            history=records.history,
        )

    def summarise(self, now: float) -> None:
        """Write summary.json, unless the run was finished before this coordinator started."""
        end, parts = self._coordinator.end, self._coordinator.parts
        path = self._run_dir / "summary.json"
        if end.found_finished and (read_summary(path) or {}).get("status") == "finished":
            return
        totals, steps = self._journal.totals(), self._journal.steps()
        wall = parts.pace.wall_seconds(now)
        waited = sum(s.learner.get("seconds_wait", 0.0) for s in steps)
        spent = sum(s.learner.get("seconds_total", 0.0) for s in steps)
        served = sum(m.stats.get("seconds", 0.0) for m in parts.fleet)
        paused = sum(m.stats.get("pause_seconds", 0.0) for m in parts.fleet)
        write_summary(
            path,
            Summary(
                status=end.state if end.state.final else State.FAILED,
                reason=end.message,
                steps=parts.batches.trained,
                policy_version=max(parts.weights.published, 0),
                wall_seconds=wall,
                groups_trained=int(totals["trained"]),
                groups_delivered=int(totals["delivered"]),
                groups_dropped=self._journal.ended(),
                tokens_generated=int(totals["tokens_generated"]),
                tokens_trained=int(totals["tokens_trained"]),
                tokens_per_second=totals["tokens_trained"] / wall if wall else 0.0,
                learner_idle_fraction=waited / spent if spent else 0.0,
                generator_pause_fraction=paused / served if served else 0.0,
                weight_sync_seconds=percentiles(list(parts.weights.figures.seconds)),
                lag={"mean": totals["lag_mean"], "max": totals["lag_max"]},
                diagnostics=diagnose([s.line() for s in steps]),
                best_checkpoint=parts.checkpoints.best,
                eval=[e.result() for e in self._journal.evaluations()],
            ),
        )

    def close(self) -> None:
        """Close the files."""
        self._records.close()


def _held_out(evaluations: Sequence[EvaluationRecord]) -> list[HeldOutStatus]:
    """The newest of evaluations beside the first: over all problems, then each of several sets."""
    if not evaluations:
        return []
    first, last = evaluations[0], evaluations[-1]
    sets = last.sets if len(last.sets) > 1 else {}
    pairs = {"": (first, last)} | {name: (first.sets.get(name), its) for name, its in sets.items()}
    return [
        HeldOutStatus(
            name=name,
            n_problems=now.n_problems,
            n_failed=now.n_failed,
            pass_=now.pass_at_k,
            base_pass=before.pass_at_k if before is not None else {},
        )
        for name, (before, now) in pairs.items()
    ]


def _mismatch(measured: Mapping[str, float], generator: str) -> float | None:
    """The mismatch of a generator, or of all where the learner did not tell them apart."""
    return measured.get(f"mismatch_kl/generator={generator}", measured.get("mismatch_kl"))


def _by_kind(dropped: Mapping[str, int]) -> Counter[str]:
    """Drops by `DropReason`, from the journal's sentences: every other one is of a failure."""
    kinds: Counter[str] = Counter()
    for reason, n in dropped.items():
        kinds[reason if reason in set(DropReason) else DropReason.FAILED] += n
    return kinds
