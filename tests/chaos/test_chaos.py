"""A real run under SIGKILL, SIGSTOP and SIGTERM of every role in every phase.

Real processes, started by `asyncds run`: coordinator, vLLM on CPU, DeepSpeed, on a tiny model. A
signal is sent while one part is frozen that the phase waits for (phases.py), so the run is in the
phase for certain; where that could not be seen, the report says so and the fault counts all the
same. After each fault the run must come back by itself, in bounded time. At the end the files it
left behind, and the weights themselves, must pass every check of invariants.py.

What this can't show: faults of networks (tests/network) and machines (full or lying disks), of
GPUs, NCCL and several learner ranks, two faults at once, faults at each instruction of a
phase rather than at the one point where it was held open, and bugs that need a state which a tiny
model never reaches. Time spent recovering is that of this machine. That a policy improves shows
that training went on as it should on the whole, not that each update was right.

The short form makes a few faults. `make chaos` is the full form: 50 faults or more
(`make chaos ARGS="--faults 72 --seed 1"`), a base model that is trained longer, and the demand that
Pass@1 rises.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from asyncds.config.load import load_config
from asyncds.rollout.journal import Journal
from asyncds.telemetry.summary import read_summary
from asyncds.tiny.model import make_tiny_model
from asyncds.tiny.recipe import Recipe
from tests.chaos.chaos_run import ChaosRun
from tests.chaos.faults import make_plan
from tests.chaos.holding import Holder
from tests.chaos.injector import Injector
from tests.chaos.invariants import Left, the_policy_improved, violations
from tests.chaos.report import Outcome, write_report

pytestmark = pytest.mark.slow

SHORT, SHORT_SEED = 6, 132
"""Every role and every signal in six different phases, with few starts of an engine."""
SUSPECT, DEAD, SILENT, STALL = 4.0, 10.0, 20.0, 900.0
PAUSES = (1.0, 14.0)
"""Shortest to longest stop: some are noticed by nobody, some are taken for death."""
SETTINGS = [
    "rollout.groups_per_step=8",
    "rollout.group_size=4",
    "rollout.lease_seconds=40",
    "rollout.straggler_seconds=20",
    "generator.max_num_seqs=64",
    "checkpoint.every=10",
    "weights.bucket_mb=1",
    "weights.prepare_seconds=6",
    "weights.transfer_seconds=12",
    "eval.n_problems=64",
    "eval.n_samples=16",
    "eval.every=0",
    "coordinator.heartbeat_seconds=0.3",
    f"coordinator.suspect_seconds={SUSPECT}",
    f"coordinator.dead_seconds={DEAD}",
    "coordinator.watch_seconds=120",
    f"coordinator.stall_seconds={STALL}",
    "supervision.max_restarts=1000",
    f"supervision.silent_seconds={SILENT}",
    "supervision.start_seconds=400",
]


@pytest.fixture
def ports() -> int:
    """The first of ten neighbours that nobody listens on."""
    for first in range(24500, 26000, 10):
        try:
            with ExitStack() as sockets:
                for port in range(first, first + 10):
                    sockets.enter_context(socket.create_server(("127.0.0.1", port)))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path, ports: int) -> Iterator[ChaosRun]:
    folder = request.config.getoption("chaos_dir", None)
    run_dir = (Path(folder).absolute() if folder else tmp_path) / "chaos"
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    generators = request.config.getoption("generators", None) or 1
    with closing(ChaosRun(run_dir=run_dir, ports=ports, generators=generators)) as run:
        yield run


@pytest.mark.timeout(6 * 3600)
def test_a_run_survives_its_faults(
    run: ChaosRun, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    wanted = request.config.getoption("faults", None)
    seed = request.config.getoption("seed", None)
    if seed is None:
        seed = 0 if wanted else SHORT_SEED
    model = request.config.getoption("chaos_model", None)
    if model is None:
        model = tmp_path / "tiny"
        make_tiny_model(
            model, recipe=Recipe() if wanted else Recipe(clean_steps=80, babble_steps=0)
        )
    run.start(
        *SETTINGS,
        "steps=1000000",
        "learner.lr=3e-5",
        f"model={Path(model).absolute()}",
        f"generator.replicas={run.generators}",
    )
    holder = Holder(run, freeze_seconds=5.0, suspect_seconds=SUSPECT, recovery_seconds=STALL)
    holder.wait_until_well()
    injector = Injector(run, holder)
    outcomes: list[Outcome] = []
    for fault in make_plan(wanted or SHORT, seed=seed, pauses=PAUSES):
        outcomes.append(injector.make(fault))
        table = write_report(
            run.run_dir,
            outcomes,
            deadlines={"silent": SILENT, "dead": DEAD, "stall": STALL},
        )
    print(table)

    run.interrupt()
    assert run.wait_end(STALL) == 0
    done = (read_summary(run.run_dir / "summary.json") or {})["steps"]
    run.resume(f"steps={done + 2}")
    assert run.wait_end(STALL) == 0
    summary = read_summary(run.run_dir / "summary.json") or {}
    assert (summary["status"], summary["steps"]) == ("finished", done + 2)
    with closing(Journal(run.run_dir / "journal.db", read_only=True)) as journal:
        config = load_config(run.run_dir / "config.yaml")
        assert violations(Left(config=config, run_dir=run.run_dir, journal=journal)) == []
    if wanted:
        assert the_policy_improved(summary) == []
