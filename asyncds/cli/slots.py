"""Runs, a few at a time, in processes that stay warm from one run to the next."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live

from asyncds.cli.live import plain_line
from asyncds.cli.sweep_view import Outcome, Progress, outcome_line, render
from asyncds.config.load import load_config
from asyncds.config.schema import RunConfig
from asyncds.launch import local
from asyncds.launch.active_run import LEAVE_SECONDS, ActiveRun
from asyncds.launch.children import Child, Children
from asyncds.launch.errors import UserError
from asyncds.launch.interrupts import interrupts
from asyncds.launch.machine import uses_cuda
from asyncds.launch.preflight import preflight
from asyncds.launch.warm import WarmChild, warm_python
from asyncds.telemetry.summary import read_summary

POLL_SECONDS = 0.5
PLAIN_SECONDS = 60.0
"""Seconds between two lines of a run where the output is not a terminal."""


def is_finished(config: RunConfig) -> bool:
    """Whether the run is there. Raises UserError if it is there with other settings."""
    run_dir = local.run_directory(config)
    if not (run_dir / "config.yaml").exists():
        return False
    refuse_another(load_config(run_dir / "config.yaml"), config, str(run_dir))
    summary = read_summary(run_dir / "summary.json")
    return summary is not None and summary["status"] == "finished"


def refuse_another(there: RunConfig, config: RunConfig, name: str) -> None:
    """Raise UserError if a run that is there was asked for something else."""
    found, wanted = there.model_dump(), config.model_dump()
    if differing := [key for key, value in wanted.items() if found[key] != value]:
        raise UserError(
            f"{name} was made with another {', '.join(differing)}: delete it, or give this one "
            "another name"
        )


def problems_of(runs: Sequence[RunConfig], jobs: int) -> list[str]:
    """Reasons why runs would not work here, each with the first run that it concerns."""
    problems: dict[str, str] = {}
    for run in runs:
        found = preflight(run, resume=True)
        if jobs > 1 and (run.coordinator.port or run.telemetry.port):
            found.append(
                "several runs can't share a port: set coordinator.port and telemetry.port to 0"
            )
        for problem in found:
            problems.setdefault(problem, run.name)
    if uses_cuda() and jobs > len(local.all_devices()):
        problems[f"{jobs} runs need as many GPUs: lower --jobs"] = "sweep"
    return [f"{name}: {problem}" for problem, name in problems.items()]


class Slot:
    """A place where one run after another goes on, with the processes that serve them."""

    def __init__(
        self,
        *,
        index: int,
        logs: Path,
        devices: Sequence[str],
        hurry: Callable[[], bool],
        prepare: Callable[[RunConfig], None],
    ) -> None:
        """devices: the GPUs that are this slot's; empty where there are none.

        hurry: whether not to wait for processes that are to leave. prepare: called with a run whose
        directory is there and whose processes are not.
        """
        self._index = index
        self._logs = logs
        self._devices = devices
        self._hurry = hurry
        self._prepare = prepare
        self._warm: dict[str, WarmChild] = {}
        self._began = 0.0
        self.run: RunConfig | None = None
        self.active: ActiveRun | None = None

    def begin(self, run: RunConfig) -> None:
        """Start a run."""
        run_dir = local.make_run_directory(run)
        self._prepare(run)
        port = run.coordinator.port or local.free_port()
        self.run, self._began = run, time.monotonic()
        arguments = local.arguments(run, port=port)
        _, of_learner, *of_generators = local.environments(run, self._devices)
        if run.learner_ranks == 1:
            learner: list[Child] = [self._warmed("learner", "learner", [], of_learner, arguments)]
        else:
            learner = local.learner(run, port=port, devices=self._devices)
        generators = [
            self._warmed(
                f"generator-{i}",
                "generator",
                [f"name=generator-{i}", f"index={i}"],
                environment,
                arguments,
            )
            for i, environment in enumerate(of_generators)
        ]
        self.active = ActiveRun(
            children=Children(
                [local.coordinator(run, port=port), *learner, *generators],
                supervision=run.supervision,
            ),
            address=f"tcp://{run.coordinator.host}:{port}",
            run_dir=run_dir,
            keys=local.client_keys(run),
        )

    def finish(self) -> Outcome:
        """The run is over: what became of it."""
        assert self.run is not None
        assert self.active is not None
        self.active.end(hurry=self._hurry)
        run, active, self.run, self.active = self.run, self.active, None, None
        return Outcome(
            name=run.name,
            summary=read_summary(local.run_directory(run) / "summary.json"),
            problem=active.problem,
            seconds=time.monotonic() - self._began,
        )

    def close(self) -> None:
        """End all processes."""
        if self.active is not None:
            self.active.end(hurry=self._hurry)
        for child in self._warm.values():
            child.close()
        Children(list(self._warm.values())).end(LEAVE_SECONDS, hurry=self._hurry)

    def _warmed(
        self,
        name: str,
        role: str,
        options: list[str],
        environment: dict[str, str],
        arguments: list[str],
    ) -> WarmChild:
        child = self._warm.get(name)
        if child is None or child.environment != environment:
            if child is not None:
                child.close()
            child = self._warm[name] = WarmChild(
                name=name,
                command=warm_python(role, *options),
                log=self._logs / f"slot-{self._index}-{name}.log",
                environment=environment,
            )
        child.assign(arguments)
        return child


def run_all(
    runs: Sequence[RunConfig],
    jobs: int,
    console: Console,
    *,
    logs: Path,
    skipped: int,
    prepare: Callable[[RunConfig], None] = lambda run: None,
    after_each: Callable[[], None] = lambda: None,
) -> tuple[list[Outcome], bool]:
    """All runs; returns what became of each, and whether it was interrupted.

    logs: directory of the logs of learners and generators. skipped: runs that were there before.
    """
    if not runs:
        return [], False
    logs.mkdir(parents=True, exist_ok=True)
    devices = local.all_devices() if uses_cuda() else []
    share = len(devices) // jobs
    waiting, outcomes = deque(runs), list[Outcome]()
    started = time.monotonic()
    with interrupts() as signals, ExitStack() as stack, _display(console) as show:
        slots = [
            Slot(
                index=i,
                logs=logs,
                devices=devices[i * share : (i + 1) * share],
                hurry=lambda: len(signals) > 1,
                prepare=prepare,
            )
            for i in range(min(jobs, len(runs)))
        ]
        for slot in slots:
            stack.callback(slot.close)
        while len(signals) < 2:
            for slot in slots:
                if slot.active is None and waiting and not signals:
                    slot.begin(waiting.popleft())
                if slot.active is not None:
                    if signals:
                        slot.active.stop("Ctrl-C")
                    slot.active.turn(POLL_SECONDS / len(slots))
                    if slot.active.over:
                        outcomes.append(slot.finish())
                        console.print(outcome_line(outcomes[-1]))
                        after_each()
            active = [s.active.status for s in slots if s.active is not None]
            show(
                Progress(
                    total=skipped + len(runs),
                    skipped=skipped,
                    made=len(outcomes),
                    seconds=time.monotonic() - started,
                    active=active,
                )
            )
            if not active and (signals or not waiting):
                break
            time.sleep(POLL_SECONDS)
        return outcomes, bool(signals)


@contextmanager
def _display(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A function that shows how far the runs are.

    In place on a terminal, else a line now and then for each run under way.
    """
    if not console.is_terminal:
        last = time.monotonic()

        def lines(progress: Progress) -> None:
            nonlocal last
            if time.monotonic() - last >= PLAIN_SECONDS:
                last = time.monotonic()
                for status in progress.active:
                    print(f"{status.name} {plain_line(status)}", flush=True)

        yield lines
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda progress: live.update(render(progress))
