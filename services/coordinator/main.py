"""The coordinator's process: sockets, journal, clock and files around `Coordinator`.

Each turn takes all messages that have arrived, lets the coordinator act, commits the journal, and
only then sends what it had to say: nothing is acknowledged that is not durable, and one fsync
serves many messages. When the disk is full, a turn is undone and its words are left unsaid; once
there is room, another `Coordinator` goes on from the journal, as after a restart.
"""

import logging
import time
from contextlib import closing
from typing import Any

from asyncds.config.load import dump_config
from asyncds.config.schema import RunConfig
from asyncds.protocol.codec import ProtocolError, decode_to_coordinator, encode
from asyncds.protocol.state import State
from asyncds.protocol.wire import Message, Observe, Status
from asyncds.rollout.journal import Journal
from asyncds.rollout.journal_file import DiskFullError, JournalDamagedError, JournalError
from asyncds.telemetry.metrics.registry import build_metrics
from asyncds.telemetry.traces.traces import Traces
from asyncds.telemetry.trackers.make import missing_package
from asyncds.transport.keys import KeyFileError
from asyncds.transport.router import BindError, Router
from services.coordinator.clock import ListeningClock
from services.coordinator.coordinator import Coordinator
from services.coordinator.disk import is_full, wait_for_room
from services.coordinator.telemetry import CoordinatorTelemetry
from services.coordinator.traces import open_journal, trace_syncs
from services.coordinator.trackers import TrackerProcesses
from services.process import (
    BAD_INPUT,
    DONE,
    FAILURE,
    make_traces,
    metrics_server,
    on_signals,
    run_directory,
    server_keys,
    start_logging,
)

log = logging.getLogger(__name__)

TURN_SECONDS = 0.2
"""Longest wait for a message before time-driven work is done."""
LONGEST_TURN_SECONDS = 2.0
"""A turn that took longer was not spent on work: the process was stopped, or its machine was."""


def main(config: RunConfig) -> int:
    """Run the coordinator of one run until it is over. Returns the exit code."""
    start_logging()
    if missing := [p for t in config.telemetry.trackers if (p := missing_package(t))]:
        log.error("%s", "; ".join(missing))
        return BAD_INPUT
    run_dir = run_directory(config)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if not (run_dir / "config.yaml").exists():
            (run_dir / "config.yaml").write_text(dump_config(config), "utf-8")
        traces = make_traces(config, role="coordinator", name="coordinator")
        journal = open_journal(run_dir / "journal.db", traces)
    except (OSError, ValueError, JournalError) as error:
        log.error("%s", error)
        return BAD_INPUT
    traces.run_id = journal.run_id()
    with closing(traces), closing(journal):
        try:
            router = Router(
                host=config.coordinator.host,
                port=config.coordinator.port,
                keys=server_keys(config),
            )
        except (BindError, KeyFileError) as error:
            log.error("%s", error)
            return BAD_INPUT
        with closing(router):
            try:
                return _serve(config, router, journal, traces)
            except JournalDamagedError as error:
                log.error("%s", error)
                return BAD_INPUT
            except (JournalError, OSError) as error:
                log.error("%s; nothing acknowledged is lost: free space, then resume", error)
                return FAILURE


def _serve(config: RunConfig, router: Router, journal: Journal, traces: Traces) -> int:
    trackers = TrackerProcesses(config=config, run_dir=run_directory(config))
    stop_reason: list[str] = []
    on_signals(stop_reason.append)
    while True:
        code = _serve_while_there_is_room(config, router, journal, traces, trackers, stop_reason)
        if code is not None:
            return code


def _serve_while_there_is_room(
    config: RunConfig,
    router: Router,
    journal: Journal,
    traces: Traces,
    trackers: TrackerProcesses,
    stop_reason: list[str],
) -> int | None:
    """The exit code; None if the disk was full and is not any more. stop_reason: of a signal."""
    metrics = build_metrics("coordinator")
    outbox: list[tuple[bytes, Message]] = []
    clock = ListeningClock(longest=LONGEST_TURN_SECONDS)
    with journal.transaction():
        coordinator = Coordinator(
            config=config,
            journal=journal,
            send=lambda peer, message: outbox.append((peer, message)),
            now=clock(),
        )
    telemetry = CoordinatorTelemetry(
        coordinator=coordinator,
        config=config,
        run_dir=run_directory(config),
        journal=journal,
        metrics=metrics,
    )
    waits = ""

    def not_ready() -> str:
        if waits:
            return waits
        if coordinator.state is State.FAILED:
            return f"the run failed: {coordinator.message}"
        return coordinator.waiting_for() if coordinator.state is State.STARTING else ""

    def turn() -> None:
        frames = router.receive(TURN_SECONDS)
        now = clock()
        told = bool(stop_reason) and not coordinator.state.final
        began = time.time_ns()
        with journal.transaction():
            for peer, frame in frames:
                _take(coordinator, telemetry, peer, frame, now, outbox)
            if told:
                coordinator.end.stop(f"told to stop by {stop_reason[0]}")
            before = coordinator.state
            coordinator.tick(now)
            handled = time.time_ns()
        _show_turn(traces, len(frames), began, handled)
        if told:
            del stop_reason[0]
        if coordinator.state is not before:
            log.info("the run is %s %s", coordinator.state.value, coordinator.message)
        events = coordinator.take_events()
        telemetry.tell(events, now)
        trace_syncs(traces, events)
        telemetry.sample(now)
        telemetry.connections(router.rejections.counts)
        for peer, message in outbox:
            router.send(peer, encode(message))
        outbox.clear()

    server = metrics_server(
        config,
        metrics,
        place=0,
        healthy=lambda: "",
        ready=not_ready,
        pages=telemetry.page.pages(),
    )
    with server as address:
        telemetry.page.announce(address)
        links = "encrypted" if config.coordinator.curve else "not encrypted"
        log.info("control plane at tcp://%s:%d, %s", config.coordinator.host, router.port, links)
        try:
            with journal.transaction():
                journal.set_meta("port", str(router.port))  # for who joins from the directory
            while not coordinator.end.over(clock()):
                turn()
                trackers.check()
        except (DiskFullError, OSError) as error:
            if not is_full(error):
                raise
            directory = run_directory(config)
            waits = f"the disk of {directory} is full: make room, and the run goes on"
            log.error("%s (%s)", waits, error)
            room = wait_for_room(
                directory=directory,
                router=router,
                status=telemetry.wait_for_room(waits, clock()),
                seconds=config.coordinator.stall_seconds,
                clock=clock,
                on_look=telemetry.look_at_disk,
                stopped=lambda: bool(stop_reason),
            )
            if not room:
                raise
            log.info("there is room on the disk of %s: the run goes on", directory)
            telemetry.close()
            return None
        with journal.transaction():
            coordinator.end.ended(clock())
        telemetry.summarise(clock())
        telemetry.close()
        trackers.close()
        log.info("the run is %s %s", coordinator.state.value, coordinator.message)
        while config.coordinator.stay and not stop_reason:
            turn()
    return FAILURE if coordinator.state is State.FAILED else DONE


def _show_turn(traces: Traces, frames: int, began: int, handled: int) -> None:
    """Show a turn in the timeline, if there was anything to do, and the commit after it."""
    if frames:
        traces.here("turns", "turn", start=began, end=handled, frames=frames)
        traces.here("turns", "commit", start=handled, end=time.time_ns())


def _take(
    coordinator: Coordinator,
    telemetry: CoordinatorTelemetry,
    peer: bytes,
    frame: bytes,
    now: float,
    outbox: list[tuple[bytes, Message]],
) -> None:
    try:
        message: Any = decode_to_coordinator(frame)
    except ProtocolError as error:
        coordinator.rejected.add(peer, str(error), now)
        return
    if isinstance(message, Observe):
        outbox.append((peer, Status(run=telemetry.status(now))))
    else:
        coordinator.handle(peer, message, now)
