"""When a run is in a phase, seen from outside, and how the phase is held open for a fault.

Phases last milliseconds with a tiny model. So one process that the phase waits for is frozen
(SIGSTOP) at a good `moment`, until what can be seen from outside says that the run is `inside` the
phase; then comes the fault, and then what was frozen goes on. A freeze is far shorter than any
deadline of the system.

What is looked at: the coordinator's status, the generator's Prometheus page, and the run directory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from asyncds.protocol.records import RunStatus

PhaseName = Literal[
    "sampling", "scoring", "delivering", "prepare", "broadcast", "commit", "step", "checkpoint"
]
Part = Literal["coordinator", "learner", "generator", "engine", "scorer"]


class View(Protocol):
    """A run from outside. frozen_for: seconds since a part was frozen, 0 while none is. last: the
    coordinator's newest answer."""

    run_dir: Path
    frozen_for: float
    last: RunStatus | None

    def status(self) -> RunStatus | None:
        """The coordinator's answer, None if it does not."""

    def gauge(self, name: str) -> float:
        """A series of the first generator's page, NaN without one."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What is frozen, when, and what shows that the phase is reached."""

    frozen: Part
    moment: Callable[[View], bool]
    inside: Callable[[View], bool]


REPORTED = 1.5
"""Seconds after which heartbeats and pages show what has been so since a freeze."""


def _working(view: View) -> bool:
    status = view.status()
    return status is not None and any(m.leases for m in status.fleet)


def _new_weights_are_coming(view: View) -> bool:
    """Whatever a generator does; no broadcast is under way."""
    status = view.status()
    return status is not None and status.sync is None and status.learner.phase == "training"


def _applied(view: View) -> bool:
    """The generator has the weights of the broadcast that was under way when last asked."""
    sync = view.last.sync if view.last else None
    return sync is not None and view.gauge("policy_version") >= sync.version


def _sync(phase: str) -> Callable[[View], bool]:
    def is_in(view: View) -> bool:
        status = view.status()
        return bool(status and status.sync and status.sync.phase == phase)

    return is_in


def _learner(phase: str) -> Callable[[View], bool]:
    def is_in(view: View) -> bool:
        status = view.status()
        return status is not None and status.learner.phase == phase

    return is_in


def _saving(view: View) -> bool:
    return any(view.run_dir.glob("checkpoints/.partial-*"))


PHASES: dict[PhaseName, Phase] = {
    # The engine is frozen with completions in it.
    "sampling": Phase(
        frozen="engine",
        moment=_working,
        inside=lambda v: v.frozen_for > REPORTED and _working(v),
    ),
    # The scorer is frozen: completions are sampled, and groups wait for their rewards.
    "scoring": Phase(
        frozen="scorer",
        moment=_working,
        inside=lambda v: (
            v.frozen_for > REPORTED and v.gauge("running") == 0 and v.gauge("leases") > 0
        ),
    ),
    # The coordinator is frozen: groups are sent and not acknowledged.
    "delivering": Phase(
        frozen="coordinator",
        moment=_working,
        inside=lambda v: v.gauge("unacknowledged_groups") > 0,
    ),
    # The generator is frozen while the learner makes new weights: nobody agrees for it.
    "prepare": Phase(frozen="generator", moment=_new_weights_are_coming, inside=_sync("preparing")),
    # The engine is frozen: all have agreed, the learner sends, and not all is received.
    "broadcast": Phase(
        frozen="engine", moment=_new_weights_are_coming, inside=_sync("transferring")
    ),
    # The coordinator is frozen during a broadcast: both ends are done, and it has not judged.
    "commit": Phase(
        frozen="coordinator",
        moment=_sync("transferring"),
        inside=_applied,
    ),
    "step": Phase(frozen="learner", moment=_learner("training"), inside=lambda v: True),
    "checkpoint": Phase(frozen="learner", moment=_saving, inside=_saving),
}
