"""The training loop of one learner rank."""

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist

from asyncds.algo.diagnostics import summarise
from asyncds.algo.objective import Objective
from asyncds.choices.schedule import scheduled
from asyncds.config.schema import RunConfig
from asyncds.engine.checkpoint_writer import NoRoomError
from asyncds.engine.training import TrainingEngine, UpdateMetrics
from asyncds.protocol.batch import Int32, Shard
from asyncds.protocol.wire import BatchRequest, LearnerHeartbeat
from asyncds.telemetry.metrics.learner import StepPhase
from asyncds.telemetry.metrics.registry import Metrics
from asyncds.telemetry.traces.spans import nanoseconds
from asyncds.telemetry.traces.traces import Traces
from asyncds.transport.link import Link
from asyncds.weights.source import iterate_weights
from asyncds.weights.staging import StagedWeights
from services.learner.checkpoints import Checkpoints
from services.learner.inbox import Inbox, PreemptedError
from services.learner.objective import BatchObjective
from services.learner.publisher import Publisher

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""How often it is looked whether there is room for the last checkpoint."""


class Learner:
    """Batch in, optimizer step, weights out, until there are no more batches.

    Every rank runs the same loop; what involves all of them (an update, staging under ZeRO-3, a
    checkpoint) happens at the same step everywhere.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        engine: TrainingEngine,
        objective: Objective,
        staged: StagedWeights,
        probe: Int32,
        metrics: Metrics,
        traces: Traces,
        checkpoints: Checkpoints,
    ) -> None:
        """probe: its tokens, int32. checkpoints: of which the newest, if any, is loaded."""
        self._config = config
        self._engine = engine
        self._objective = objective
        self.staged = staged
        self._probe = probe
        self._metrics = metrics
        self._traces = traces
        self.checkpoints = checkpoints
        self.step = max(0, checkpoints.newest)
        self.phase = "starting"
        self._report: dict[str, float] = {}

    @property
    def version(self) -> int:
        """The version that the weights are, or become when they are published next."""
        return self.step // self._config.weights.publish_every

    def heartbeat(self) -> LearnerHeartbeat:
        """The state that the coordinator goes by."""
        version = self.staged.version
        return LearnerHeartbeat(
            rank=self._engine.rank,
            staged=-1 if version is None or self._engine.rank else version,
            checkpoint=self.checkpoints.newest,
            saving=self.checkpoints.waited_for >> 20,
            phase=self.phase,
        )

    def state(self) -> dict[str, Any]:
        """Describe what it is doing, for people."""
        return {"phase": self.phase, "step": self.step, "staged": self.staged.version}

    def run(self, *, link: Link, inbox: Inbox, publisher: Publisher | None) -> str:
        """Train until told to leave; returns the reason.

        A checkpoint that there is no room for is left out, but for the last, which is tried again
        until there is. publisher: on rank 0. Raises BatchLateError, LinkLostError, DrainedError,
        NonFiniteError, NoRoomError, PublisherDiedError, ReplacedError, WriteLateError, and
        PreemptedError, then with everything saved, if there is room.
        """
        self.checkpoints.on_saved = link.beat

        def check() -> None:
            link.check()
            self.checkpoints.check()
            if publisher is not None:
                publisher.check()

        self._publish(publisher, link)  # the fleet is brought to these weights before it serves
        waited_since: float | None = None  # the wait for the fleet to start is not idleness
        while True:
            self.phase = "waiting for a batch"
            asked = time.time_ns()
            shard = self._next_batch(link, inbox, check)
            if shard is None:
                break
            self._traces.here("steps", "wait", start=asked, end=time.time_ns(), step=self.step)
            waited = 0.0 if waited_since is None else time.perf_counter() - waited_since
            started, began = time.perf_counter(), time.time_ns()
            update = self._train(shard, link)
            updated = time.perf_counter() - started
            self._trace(shard, update, began)
            self.step += 1
            published = saved = 0.0
            if self.step % self._config.weights.publish_every == 0:
                published = self._timed("publish", lambda: self._publish(publisher, link))
            if self.step % self._config.checkpoint.every == 0:
                saved = self._timed("checkpoint", lambda: self._begin_saving(link))
            waited_since = time.perf_counter()
            self._record(update, waited, updated, published, saved)
        self._save_at_last(link)
        self.phase = "done"
        link.beat()
        return inbox.wait_drain(check=check, timeout=self._config.coordinator.stall_seconds)

    def _next_batch(self, link: Link, inbox: Inbox, check: Callable[[], None]) -> Shard | None:
        """Wait for this rank's shard of the next batch; None if there are no more.

        Raises as `run` does: all ranks leave at the same step, also if only one is told to.
        """
        shard, told = None, ""
        try:
            shard = inbox.wait_batch(
                self.step,
                ask=lambda: link.send(
                    BatchRequest(rank=self._engine.rank, step=self.step, report=self._report)
                ),
                check=check,
                timeout=self._config.learner.batch_seconds,
            )
        except PreemptedError as error:
            told = str(error)
        if self._of_any_rank(bool(told)):
            if self.step:
                self._save(link)
            raise PreemptedError(told or "another rank was told to leave")
        return shard

    def _of_any_rank(self, flag: bool) -> bool:
        if self._engine.ranks == 1:
            return flag
        flags = torch.tensor(int(flag), device=self._engine.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags)

    def _train(self, shard: Shard, link: Link) -> UpdateMetrics:
        self._begin("training", link)
        engine, objective = self._engine, self._objective.at(self.step)
        old = engine.log_probs(shard) if objective.config.needs_proximal else None
        reference = engine.reference_log_probs(shard) if objective.config.needs_reference else None
        return engine.update(
            shard,
            BatchObjective(
                objective,
                shard,
                device=engine.device,
                version=self.version,
                max_lag=self._config.rollout.max_lag,
                old_log_probs=old,
            ),
            minibatches=objective.config.updates_per_batch,
            old_log_probs=old,
            reference_log_probs=reference,
            with_entropy=True,
        )

    def _timed(self, name: str, action: Callable[[], object]) -> float:
        """Seconds that an action took, which the timeline shows."""
        began, start = time.time_ns(), time.perf_counter()
        action()
        self._traces.here("steps", name, start=began, end=time.time_ns(), version=self.version)
        return time.perf_counter() - start

    def _trace(self, shard: Shard, update: UpdateMetrics, began: int) -> None:
        """Trace the training of a batch's groups, which all ranks do at once: rank 0 says so."""
        ended = time.time_ns()
        self._traces.here("steps", "train", start=began, end=ended, step=shard.step)
        at = began
        for name, seconds in update.seconds.items():
            # What the parts took in all, one after the other: each micro-batch goes through both.
            until = at + nanoseconds(seconds)
            self._traces.here("parts of train", name, start=at, end=until, step=shard.step)
            at = until
        for lease in shard.leases if self._engine.rank == 0 else ():
            if trace := self._traces.lease(lease):
                trace.span(
                    "train",
                    start=began,
                    end=ended,
                    step=shard.step,
                    version=self.version,
                    ranks=self._engine.ranks,
                    loss=update.loss,
                )

    def _begin(self, phase: str, link: Link) -> None:
        """Enter a phase that takes a while: the coordinator is told at once."""
        self.phase = phase
        link.beat()

    def _publish(self, publisher: Publisher | None, link: Link) -> None:
        """Copy the weights for their sync; nothing else of it is waited for."""
        self.phase = "publishing"
        version = self.version
        probe = self._engine.probe(self._probe)
        staged = self.staged
        source = iterate_weights(
            self._engine.causal_lm,
            adapter=self._config.sent_adapter is not None,
            gather_bytes=staged.placement.bucket_bytes,
            place=staged.place,
            places=staged.places,
        )
        with nullcontext() if publisher is None else publisher.hold:
            # Ranks share what they copy into: not before rank 0 is through with sending it, and
            # no rank trains on, which changes the weights, before all have copied.
            self._meet()
            staged.copy(source, version=version)
            self._meet()
        if publisher is not None:
            publisher.check()
            publisher.copied(version, probe=probe)

    def _meet(self) -> None:
        """Wait for the other ranks."""
        self._of_any_rank(False)

    def _save_at_last(self, link: Link) -> None:
        """Write the last checkpoint, without which the run is not over.

        Raises NoRoomError if there was no room in time.
        """
        deadline = time.monotonic() + self._config.coordinator.stall_seconds
        while (problem := self._save(link)) is not None:
            link.check()
            if self._of_any_rank(time.monotonic() > deadline):
                raise problem
            self._begin("waiting for room for the last checkpoint", link)
            time.sleep(RETRY_SECONDS)

    def _begin_saving(self, link: Link) -> None:
        """Copy a checkpoint; it is written while training goes on."""
        self._begin("copying a checkpoint", link)
        self.checkpoints.begin(self.step)

    def _save(self, link: Link) -> NoRoomError | None:
        """Have a checkpoint of this step on the disk. Returns why it isn't, all ranks alike."""
        self._begin("writing a checkpoint", link)
        return self.checkpoints.save(self.step)

    def _record(
        self,
        update: UpdateMetrics,
        waited: float,
        updated: float,
        published: float,
        saved: float,
    ) -> None:
        means = summarise(update.sums)
        self._report = {
            "loss": update.loss,
            "grad_norm": update.grad_norm,
            "updates_clipped": update.clipped,
            "lr": update.lr,
            "micro_batches": update.micro_batches,
            "padding": update.padding,
            "clip_fraction_positive": means.pop("clipped_positive"),
            "clip_fraction_negative": means.pop("clipped_negative"),
            **means,
            **{
                f"coefficient/{name}": value
                for name, value in scheduled(self._objective.config, self.step - 1).items()
            },
            "seconds_wait": waited,
            "seconds_update": updated,
            "seconds_publish": published,
            "seconds_checkpoint": saved,
            "seconds_total": waited + updated + published + saved,
            **{
                f"deepspeed_seconds/{name}": value
                for name, value in update.deepspeed_seconds.items()
            },
        }
        m = self._metrics
        m.record("batch", self._report)
        m.gauge("policy_version").set(self.version)
        m.counter("idle_seconds_total").inc(waited)
        seconds = {
            StepPhase.WAIT: waited,
            StepPhase.FORWARD_BACKWARD: update.seconds["forward"] + update.seconds["backward"],
            StepPhase.OPTIMIZER: update.seconds["step"],
            StepPhase.PUBLISH_WAIT: published,
            StepPhase.CHECKPOINT: saved,
        }
        for phase, value in seconds.items():
            m.histogram("step_seconds", phase=phase).observe(value)
        if self._engine.rank == 0:
            log.info(
                "step %d: loss %.4f, waited %.2f s, update %.2f s, publish %.2f s",
                self.step,
                update.loss,
                waited,
                updated,
                published,
            )
