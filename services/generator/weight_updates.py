"""A generator's part in weight syncs: agree, receive, go on with it, answer the probe."""

import asyncio
import logging
import time
from dataclasses import dataclass

import numpy as np

from asyncds.engine.generation import GenerationEngine
from asyncds.engine.weight_update import UpdateResult
from asyncds.protocol.batch import Float32, Int32
from asyncds.protocol.wire import Applied, Go, Prepare, Prepared, SyncFailed
from asyncds.telemetry.metrics.registry import Metrics
from asyncds.telemetry.traces.spans import nanoseconds
from asyncds.telemetry.traces.traces import Traces
from asyncds.transport.link import Link
from asyncds.weights.communicator import NotJoined, TransferFailed
from asyncds.weights.layout import fingerprint, unpack_layout

log = logging.getLogger(__name__)

PROBE_SECONDS = 60.0
"""Deadline of the probe."""
MAX_FAILURES = 5
"""Failed updates in a row, each after the group was joined, until the engine is given up."""


class EngineUnusableError(Exception):
    """The engine takes no new weights any more; the message says so."""


@dataclass(kw_only=True)
class Failures:
    """Failed updates since the last that succeeded.

    last: why the last failed. unfit: why the weights are not fit to be served, or "". count: of
    those whose group was whole, that nobody came is no fault of the engine, and of those after
    which the engine did not compute what the learner does.
    """

    last: str = ""
    unfit: str = ""
    count: int = 0


class WeightUpdates:
    """Takes part in the weight syncs that it has agreed to, one at a time, in tasks of its own.

    version: of the weights that are served, -1 until the first have come.
    """

    def __init__(
        self,
        *,
        engine: GenerationEngine,
        probe: Int32,
        incarnation: str,
        metrics: Metrics,
        traces: Traces,
        version: int = -1,
    ) -> None:
        """Begin with the weights that the engine has.

        probe: its tokens, int32. incarnation: of this generator. version: of the engine's weights,
        if they are to be served; -1: those of a learner are awaited. From now on requests share no
        cached prefixes with those of another incarnation.
        """
        self.version = version
        engine.cache_salt = incarnation
        self.pause_seconds = 0.0
        self._engine = engine
        self._probe = probe
        self._incarnation = incarnation
        self._metrics = metrics
        self._traces = traces
        self._agreed: Prepare | None = None
        self._update: asyncio.Task[None] | None = None
        self._failures = Failures()
        self._failures_before = self._failures
        self._tensors = b""

    @property
    def failure(self) -> str:
        """Why the weights are not fit to be served, or ""."""
        return self._failures.unfit

    @property
    def agreed(self) -> int | None:
        """The weight sync that was agreed to and has not begun."""
        return None if self._agreed is None else self._agreed.sync

    @property
    def busy(self) -> bool:
        """Whether an update is under way."""
        return self._update is not None and not self._update.done()

    def prepare(self, prepare: Prepare, link: Link) -> None:
        """Agree to a weight sync, unless an earlier one is still under way."""
        if self.busy:
            reason = "is still busy with an earlier update"
            link.send(SyncFailed(sync=prepare.sync, reason=reason))
            return
        self._agreed = prepare
        link.send(Prepared(sync=prepare.sync, layout=fingerprint(self._tensors)))

    def call_off(self, sync: int, reason: str) -> None:
        """Stay out of a weight sync that was agreed to."""
        log.warning("weight sync %d was called off: %s", sync, reason)
        self._agreed = None

    def refused(self, sync: int, reason: str) -> None:
        """Take note that the weights of the last update are not the learner's, as it turned out."""
        log.warning("weight sync %d was refused: %s", sync, reason)
        last = f"the weights that came were refused: {reason}"
        self._failures = Failures(last=last, unfit=last, count=self._failures_before.count + 1)

    def go(self, go: Go, link: Link) -> None:
        """Begin with the weight sync that was agreed to; its end is said over the link."""
        prepare, self._agreed = self._agreed, None
        if prepare is None or prepare.sync != go.sync:
            log.warning("weight sync %d begins, but was not agreed to; staying out", go.sync)
            return
        self._update = asyncio.create_task(self._apply(prepare, go, link))

    def check(self) -> None:
        """Raise EngineUnusableError after MAX_FAILURES, and what ended an update by surprise."""
        if self._update is not None and self._update.done():
            self._update.result()
        if self._failures.count >= MAX_FAILURES:
            raise EngineUnusableError(
                f"{self._failures.count} updates in a row failed ({self._failures.last}): "
                "the engine ends, so that another takes its place"
            )

    async def over(self) -> None:
        """Wait for the update under way, if any: it has a deadline."""
        if self._update is not None:
            await asyncio.wait([self._update])

    async def _apply(self, prepare: Prepare, go: Go, link: Link) -> None:
        trace, began = self._traces.broadcast(go.sync), time.time_ns()
        try:
            result, probe = await self._receive(prepare, go)
        except (TransferFailed, TimeoutError) as error:
            slow = f"no answer to the probe within {PROBE_SECONDS:g} s"
            reason = slow if isinstance(error, TimeoutError) else str(error)
            log.warning("weight sync %d, version %d failed: %s", go.sync, go.version, reason)
            self._failures.last = f"the update to version {go.version} failed: {reason}"
            # Before the activation nothing is lost. After it the weights are new, but not judged.
            kept = self._engine.weights_valid and not isinstance(error, TimeoutError)
            if not kept:
                self._failures.unfit = self._failures.last
            if not isinstance(error, NotJoined):
                self._failures.count += 1
            if trace is not None:
                trace.span("receive", start=began, end=time.time_ns(), error=reason)
            link.send(SyncFailed(sync=go.sync, reason=f"could not receive: {reason}", kept=kept))
            return
        activated = began + nanoseconds(result.receive_seconds)
        self._traces.here(
            "engine",
            "pause for a version",
            start=activated,
            end=activated + nanoseconds(result.pause_seconds),
            version=go.version,
        )
        # What it computes with them is judged later.
        self._failures_before, self._failures = self._failures, Failures()
        self.version = go.version
        self.pause_seconds += result.pause_seconds
        m = self._metrics
        m.gauge("policy_version").set(go.version)
        m.counter("pause_seconds_total").inc(result.pause_seconds)
        m.histogram("weight_receive_seconds").observe(result.receive_seconds)
        if trace is not None:
            trace.span(
                "receive",
                start=began,
                end=time.time_ns(),
                version=go.version,
                receive_seconds=result.receive_seconds,
                pause_seconds=result.pause_seconds,
                probe=prepare.probe,
            )
        link.send(
            Applied(
                sync=go.sync,
                checksums=list(go.checksums),
                probe=probe.astype("<f4").tobytes(),
                pause_seconds=result.pause_seconds,
            )
        )

    async def _receive(self, prepare: Prepare, go: Go) -> tuple[UpdateResult, Float32]:
        """The update, and the log-probabilities of the probe under the new weights, if asked for.

        Raises TransferFailed, and TimeoutError where the probe is not answered.
        """
        self._tensors = go.tensors or self._tensors
        if fingerprint(self._tensors) != go.layout:
            raise TransferFailed("the list of tensors that came is not the one that is sent")
        result = await self._engine.update_weights(
            version=go.version,
            rendezvous=go.rendezvous,
            rank_offset=prepare.rank,
            world_size=prepare.world_size,
            layout=unpack_layout(self._tensors),
            checksums=go.checksums,
            timeout=prepare.deadline,
            cache_salt=f"{self._incarnation}-{go.sync}",
        )
        if not prepare.probe:
            return result, np.empty(0, np.float32)
        return result, await self._engine.log_probs(self._probe.tolist(), timeout=PROBE_SECONDS)
