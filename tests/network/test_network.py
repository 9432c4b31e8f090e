"""A real run on three machines while the network between them fails.

Coordinator, learner and generator are in network namespaces of their own, joined by veth pairs and
a bridge; their processes are real (vLLM and DeepSpeed on CPU, on a tiny model), started by the
roles' own commands, encrypted. The cable of one machine is pulled for a while, or delays or loses
frames, while the engine is frozen in the middle of sampling or of a weight broadcast (the chaos
suite's phases). Nobody starts anything again: whoever ends, fails the test. After each fault
everybody must be well, with verified weights, and a batch be trained. At the end what the run left
behind must pass every check of the chaos suite's invariants.

What this can't show: switches, routers, firewalls and NAT with a memory of their own; cables that
work in one direction only, corrupt frames, or reorder them; two faults at once; one during a
checkpoint, a start or an end; several generators and learner ranks on several machines; NCCL and
RDMA; a file system that is on the network, too (here all share one). A broadcast of a tiny model
fits into the sockets' buffers, so a cut seldom comes between two of its packets. Latency and loss
are made by a process in user space, so they are never less than said, and sometimes more.

The short form makes two faults. `make network` makes all of them.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path

import psutil
import pytest

from asyncds.rollout.journal import Journal
from asyncds.tiny.recipe import copy_shipped
from tests.chaos.holding import Holder
from tests.chaos.invariants import Left, violations
from tests.chaos.phases import PHASES
from tests.network.namespaces import Machines, NoNamespacesError
from tests.network.network_faults import NetworkFault, matrix
from tests.network.network_report import NetworkOutcome, write_network_report
from tests.network.network_run import ROLES, NetworkRun

pytestmark = pytest.mark.slow

DEADLINES = {
    "suspect": 4.0,
    "dead": 20.0,
    "prepare": 6.0,
    "transfer": 12.0,
    "lost": 600.0,
    "stall": 900.0,
}
SHORT_DEADLINES = DEADLINES | {"suspect": 2.0, "dead": 5.0}
SHORT = [
    NetworkFault(role="generator", phase="sampling", cut=10.0),
    NetworkFault(role="learner", phase="broadcast", cut=1.0),
]
"""The first takes longer than a generator may be silent."""
TRIES = 3
"""How often a phase is waited for before a fault is made outside of it."""
FREEZE_SECONDS = 5.0
BATCHES = 4
"""Trained on a bad cable before it is mended."""


def settings(deadlines: dict[str, float]) -> list[str]:
    return [
        "steps=1000000",
        "rollout.groups_per_step=8",
        "rollout.group_size=4",
        "rollout.lease_seconds=90",
        "rollout.straggler_seconds=45",
        "generator.max_num_seqs=64",
        "learner.lr=3e-5",
        "checkpoint.every=10",
        "weights.bucket_mb=1",
        f"weights.prepare_seconds={deadlines['prepare']}",
        f"weights.transfer_seconds={deadlines['transfer']}",
        "eval.n_problems=16",
        "eval.n_samples=8",
        "eval.every=0",
        "coordinator.heartbeat_seconds=0.3",
        f"coordinator.suspect_seconds={deadlines['suspect']}",
        f"coordinator.dead_seconds={deadlines['dead']}",
        f"coordinator.lost_seconds={deadlines['lost']}",
        "coordinator.watch_seconds=120",
        f"coordinator.stall_seconds={deadlines['stall']}",
    ]


@pytest.fixture
def machines() -> Iterator[Machines]:
    with ExitStack() as stack:
        try:
            made = stack.enter_context(Machines(ROLES))
        except NoNamespacesError as reason:
            pytest.skip(str(reason))
        yield made


class Saboteur:
    """Makes faults of the network, and waits after each until the run has got over it."""

    def __init__(self, run: NetworkRun, machines: Machines, holder: Holder) -> None:
        self._run, self._machines, self._holder = run, machines, holder

    def make(self, fault: NetworkFault) -> NetworkOutcome:
        """Make a fault; returns when the run has got over it."""
        run, machines = self._run, self._machines
        rejoined = run.rejoined
        bad = machines.bad_cable(delay=fault.delay, loss=fault.loss)
        with nullcontext() if fault.cut else bad:
            frozen = self._in_phase(fault)
            began = time.monotonic()
            (machines.pull if fault.cut else machines.spoil)(fault.role)
            run.forget_stalls()
            if frozen is not None:
                self._holder.release(frozen)
            if fault.cut:
                run.comes(lambda: False, fault.cut)
                machines.replug(fault.role)
                began = time.monotonic()
            self._holder.wait_until_well()
            recovery = time.monotonic() - began
            if not fault.cut:
                enough = run.trained + BATCHES
                run.wait(
                    lambda: run.trained >= enough,
                    self._holder.recovery_seconds,
                    "it does not go on",
                )
                machines.mend(fault.role)
                self._holder.wait_until_well()
        return NetworkOutcome(
            fault=fault,
            reached=frozen is not None,
            step=run.last.step if run.last else 0,
            recovery_seconds=recovery,
            stall_seconds=run.longest_stall,
            rejoined=run.rejoined - rejoined,
        )

    def _in_phase(self, fault: NetworkFault) -> psutil.Process | None:
        """What is frozen to hold the phase open; None if it was not reached."""
        for _ in range(TRIES):
            if frozen := self._holder.hold(PHASES[fault.phase]):
                return frozen
            self._holder.wait_until_well()
        return None


@pytest.mark.timeout(4 * 3600)
def test_a_run_survives_its_network(
    request: pytest.FixtureRequest, tmp_path: Path, machines: Machines
) -> None:
    full = request.config.getoption("network", False)
    role = request.config.getoption("network_role", None)
    faults = matrix([role] if role else ("generator", "learner", "coordinator")) if full else SHORT
    deadlines = DEADLINES if full else SHORT_DEADLINES
    folder = request.config.getoption("network_dir", None)
    root = Path(folder).absolute() if folder else tmp_path
    root.mkdir(parents=True, exist_ok=True)
    copy_shipped(root / "tiny")
    made = NetworkRun(
        run_dir=root / "network",
        machines=machines,
        overrides=[f"model={root / 'tiny'}", *settings(deadlines)],
    )
    with closing(made) as run:
        run.start()
        holder = Holder(
            run,
            freeze_seconds=FREEZE_SECONDS,
            suspect_seconds=deadlines["suspect"],
            recovery_seconds=deadlines["stall"],
        )
        holder.wait_until_well()
        saboteur, outcomes = Saboteur(run, machines, holder), []
        for fault in faults:
            outcomes.append(saboteur.make(fault))
            table = write_network_report(run.run_dir, outcomes, deadlines=deadlines)
            print(table.splitlines()[1 + len(outcomes)], flush=True)
        print(table)
        config = run.finish(deadlines["stall"])
    given_up = [
        o for o in outcomes if o.fault.role == "generator" and o.fault.cut > deadlines["dead"]
    ]
    assert all(o.rejoined for o in given_up)
    assert "encrypted" in run.log("coordinator")
    assert "not encrypted" not in run.log("coordinator")
    with closing(Journal(run.run_dir / "journal.db", read_only=True)) as journal:
        assert violations(Left(config=config, run_dir=run.run_dir, journal=journal)) == []
