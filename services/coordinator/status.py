"""The status of a run for people: who waits for whom, and all of it at a glance."""

from collections import Counter

from asyncds.fleet.arrivals import Arrival
from asyncds.protocol.records import (
    LearnerStatus,
    MemberStatus,
    RoundStatus,
    RunStatus,
    SyncStatus,
)
from asyncds.protocol.state import State
from asyncds.rollout.lifecycle import OpenState
from services.coordinator.parts import Parts

FIRST_RANK = "learner-0"
"""The rank that speaks for the learner before it joins."""
NAMED = 4
"""Processes that a sentence names; of the others it tells the number."""
TELL_SYNCS = 2
"""Failed weight syncs in a row that people are told of; one may be an accident."""


def missing(run: Parts) -> str:
    """A sentence about who has to join before anything can go on, "" if nobody has to."""
    if run.config.trains and not run.learner.here:
        return f"everybody waits for the learner to join{_being_started(run)}"
    if not run.fleet.alive():
        waits = "the learner" if run.config.trains else "everybody"
        return f"{waits} waits for a generator to join{_being_started(run)}"
    return ""


def _being_started(run: Parts) -> str:
    names = sorted(arrival.name for arrival in run.arrivals)
    if not names:
        return ""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f" (being started: {', '.join(names[:NAMED])}{more})"


def waiting_for(run: Parts, state: State) -> str:
    """A sentence that says who waits for whom."""
    if absent := missing(run):
        return absent
    round, sync = run.leases.round, run.weights.current
    if round is not None:
        return f"evaluating version {round.version}: {round.done} of {round.total} groups"
    if run.batches.starving:
        blockers = Counter(lease.holder or "nobody" for lease in run.scheduler.blockers())
        if blockers:
            name, n = blockers.most_common(1)[0]
            return f"the learner waits for generators: {n} groups at {name}"
        if sync is not None:
            return f"the learner waits for generators to get version {sync.version}"
        return "the learner waits for rollouts"
    if state is State.FINISHING and run.checkpoints.newest < run.batches.trained:
        return "everybody waits for the last checkpoint"
    if sync is not None:
        return f"weight sync {sync.id} is {sync.phase.value}"
    if not run.leases.open.count(OpenState.LEASED) and state is State.RUNNING:
        return "generators wait for the learner"
    return "nobody waits"


def status(run: Parts, *, state: State, message: str, now: float) -> RunStatus:
    """The run at a glance, as far as the coordinator itself knows it."""
    round, sync = run.leases.round, run.weights.current
    version = max(run.weights.published, 0)
    return RunStatus(
        name=run.config.name,
        state="evaluating" if round is not None else state.value,
        over=state.final,
        message=message or "; ".join(filter(None, _troubles(run, now))),
        step=run.batches.trained,
        steps=run.config.steps,
        version=version,
        max_lag=run.config.rollout.max_lag,
        outstanding=run.leases.open.outstanding,
        buffered=run.leases.open.count(OpenState.DELIVERED),
        waiting_for=waiting_for(run, state),
        sync_seconds=run.weights.figures.last_seconds,
        pause_seconds=run.weights.figures.last_pause,
        learner=LearnerStatus(
            phase=run.learner.phase if run.learner.here else _learner_absent(run, now),
            step=run.batches.trained,
            version=run.weights.learner.staged,
            last_seen=run.learner.silent(now) if run.learner.heard else None,
        ),
        sync=None
        if sync is None
        else SyncStatus(id=sync.id, phase=sync.phase.value, version=sync.version),
        evaluation=None
        if round is None
        else RoundStatus(version=round.version, done=round.done, total=round.total),
        fleet=[
            MemberStatus(
                name=m.name,
                health=m.health.value,
                version=m.version,
                lag=version - m.version if m.version >= 0 else None,
                leases=run.leases.open.leases_of(m.name),
                tokens_per_second=m.stats.get("tokens_per_second"),
                kv_use=m.stats.get("kv_use"),
                last_seen=now - m.last_seen,
            )
            for m in run.fleet
        ]
        + [
            MemberStatus(name=a.name, health=_started(a, now), version=-1, last_seen=0.0)
            for a in run.arrivals
            if a.name != FIRST_RANK
        ],
        elapsed=run.pace.wall_seconds(now),
        generated_tokens_per_second=run.fleet.tokens_per_second,
        trained_tokens_per_second=run.pace.tokens_per_second,
    )


def _learner_absent(run: Parts, now: float) -> str:
    arrival = run.arrivals.get(FIRST_RANK)
    return "not here" if arrival is None else _started(arrival, now)


def _started(arrival: Arrival, now: float) -> str:
    return f"{arrival.doing} for {now - arrival.since:.0f} s"


def _troubles(run: Parts, now: float) -> list[str]:
    """Sentences that people should know while the run goes on, each "" if there is nothing."""
    syncs = run.weights.figures
    failing = f"{syncs.failing} weight syncs in a row failed: {syncs.last_failure}"
    return [
        _stall(run, now),
        failing if syncs.failing >= TELL_SYNCS else "",
        run.leases.failures.told(),
    ]


def _stall(run: Parts, now: float) -> str:
    """A sentence while nothing moves, or ""."""
    still = run.watchdog.still(now)
    return f"no progress for {still:.0f} s" if run.watchdog.has_barked else ""
