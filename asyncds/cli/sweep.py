"""`asyncds sweep`: many runs, a few at a time, in processes that stay warm between them."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import yaml
from msgspec.structs import replace
from rich.console import Console
from rich.live import Live

from asyncds.cli.live import plain_line
from asyncds.cli.sweep_view import Outcome, Progress, outcome_line, render
from asyncds.compare.rows import RowsError, read_rows, write_rows
from asyncds.compare.runs import RunResult, make_result
from asyncds.config.load import dump_config, load_config, parse_config
from asyncds.config.schema import RunConfig
from asyncds.config.sweep import SweepRun, load_sweep
from asyncds.launch import local
from asyncds.launch.active_run import LEAVE_SECONDS, ActiveRun
from asyncds.launch.children import Child, Children
from asyncds.launch.errors import UserError
from asyncds.launch.interrupts import interrupts
from asyncds.launch.machine import uses_cuda
from asyncds.launch.preflight import preflight
from asyncds.launch.warm import WarmChild, warm_python
from asyncds.protocol.records import EvaluationRecord, RecordError
from asyncds.rollout.journal import Journal
from asyncds.telemetry.summary import read_summary

POLL_SECONDS = 0.5
PLAIN_SECONDS = 60.0
"""Seconds between two lines of a run where the output is not a terminal."""


def sweep_command(
    *,
    file: Path,
    overrides: Sequence[str],
    jobs: int,
    list_only: bool,
    results: Path | None,
    only: Sequence[str] = ("*",),
) -> int:
    """Run what is missing of a sweep, then compare its runs. Returns the exit code.

    jobs: runs at a time. list_only: say what would be run, and start nothing. results: a file of
    rows to keep what the runs reached; what is there already is not run again. only: shell patterns
    of the names of the runs; the others are left as they are. Raises ConfigError and UserError
    before anything is started.
    """
    sweep, everything = load_sweep(file, overrides)
    for pattern in only:
        if not any(fnmatchcase(p.name, pattern) for p in everything):
            raise UserError(
                f"no run of {file} is called {pattern}: `--list` without `--only` names them"
            )
    planned = [p for p in everything if any(fnmatchcase(p.name, pattern) for pattern in only)]
    kept = _read(results)
    missing = [p for p in planned if not _is_finished(p, kept)]
    console = Console()
    if list_only:
        for one in planned:
            console.print(f"{'missing ' if one in missing else 'finished'}  {one.name}")
        return 0
    runs = [local.absolute_paths(p.config) for p in missing]
    if problems := _problems(runs, jobs):
        raise UserError(*problems)
    folder = Path(planned[0].config.runs_dir)
    console.print(
        f"{len(missing)} of {len(planned)} runs to make in {folder}; logs of learners and "
        f"generators in {folder / 'logs'}"
    )

    def keep() -> None:
        if results is not None:
            _keep(everything, results)

    outcomes, interrupted = _run_all(
        runs, jobs, console, skipped=len(planned) - len(missing), after_each=keep
    )
    keep()
    failed = [o for o in outcomes if o.status != "finished"]
    for outcome in failed:
        console.print(outcome_line(outcome))
    if interrupted:
        console.print("the same command goes on with it")
        return 1
    if len(failed) < len(planned):
        from asyncds.cli.compare import compare_command  # pandas takes a second to import

        made = [folder / one.name for one in everything if (folder / one.name).exists()]
        there = made if results is None else [results]
        compare_command(there, baseline=sweep.baseline, output=folder, pairs=False)
    return 1 if failed else 0


def _is_finished(planned: SweepRun, kept: Mapping[str, RunResult]) -> bool:
    """Whether the run is there, or kept among the results.

    Raises UserError if it is there with other settings.
    """
    if planned.name in kept:
        there = parse_config(kept[planned.name].config)
        _refuse_another(there, planned.config, f"{planned.name} among the results")
        return True
    run = local.absolute_paths(planned.config)
    return _finished(local.run_directory(run), run)


def _finished(run_dir: Path, config: RunConfig) -> bool:
    if not (run_dir / "config.yaml").exists():
        return False
    _refuse_another(load_config(run_dir / "config.yaml"), config, str(run_dir))
    summary = read_summary(run_dir / "summary.json")
    return summary is not None and summary["status"] == "finished"


def _refuse_another(there: RunConfig, config: RunConfig, name: str) -> None:
    found, wanted = there.model_dump(), config.model_dump()
    if differing := [key for key, value in wanted.items() if found[key] != value]:
        raise UserError(
            f"{name} was made with another {', '.join(differing)}: delete it, or give the sweep "
            "another name"
        )


def _keep(everything: Sequence[SweepRun], results: Path) -> None:
    """Add finished runs to the file of rows, in the order of the sweep.

    A row is what a run was asked for and what it reached, without paths of this machine.
    """
    kept = _read(results)
    there = {name: run for name, run in kept.items() if name not in {p.name for p in everything}}
    for one in everything:
        run_dir = local.run_directory(one.config)
        if one.name in kept:
            there[one.name] = kept[one.name]
        elif _finished(run_dir, local.absolute_paths(one.config)):
            config = yaml.safe_load(dump_config(one.config))
            summary = read_summary(run_dir / "summary.json") or {}
            there[one.name] = make_result(one.name, config, summary, [])
    if there.keys() != kept.keys():
        write_rows(results, there)


def _read(results: Path | None) -> dict[str, RunResult]:
    """The runs that are kept. Raises UserError where that is no file of rows."""
    try:
        return {} if results is None else read_rows(results)
    except RowsError as error:
        raise UserError(str(error)) from error


def _problems(runs: Sequence[RunConfig], jobs: int) -> list[str]:
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


def share_base_evaluation(run: RunConfig) -> None:
    """Give a run that begins the base evaluation of a run beside it, if it fits.

    It fits if it is of the same model, made in the same way; the results say whose it is
    (`made_by`).
    """
    journal = Journal(local.run_directory(run) / "journal.db")
    with closing(journal):
        if journal.evaluations() or journal.steps():
            return
        for other in sorted(Path(run.runs_dir).iterdir()):
            made = _base_evaluation(other, like=run)
            with journal.transaction():
                for result in made:
                    id = journal.add_evaluation(version=0, step=0, n_samples=result.n_samples)
                    journal.finish_evaluation(replace(result, id=id, made_by=other.name))
            if made:
                return


def _base_evaluation(run_dir: Path, *, like: RunConfig) -> list[EvaluationRecord]:
    """A finished run's results for its base model; none if they would not be those of `like`."""
    summary = read_summary(run_dir / "summary.json")
    if summary is None or summary["status"] != "finished":
        return []
    there = load_config(run_dir / "config.yaml")
    alike = ("model", "tokenizer", "dtype", "task", "eval")
    if any(getattr(there, key) != getattr(like, key) for key in alike):
        return []
    try:
        made = [EvaluationRecord.from_result(result) for result in summary["eval"]]
    except RecordError:
        return []  # of another version of asyncds
    return [e for e in made if e.version == 0]


class Slot:
    """A place where one run after another goes on, with the processes that serve them."""

    def __init__(
        self, *, index: int, logs: Path, devices: Sequence[str], hurry: Callable[[], bool]
    ) -> None:
        """devices: the GPUs that are this slot's; empty where there are none.

        hurry: whether not to wait for processes that are to leave.
        """
        self._index = index
        self._logs = logs
        self._devices = devices
        self._hurry = hurry
        self._warm: dict[str, WarmChild] = {}
        self._began = 0.0
        self.run: RunConfig | None = None
        self.active: ActiveRun | None = None

    def begin(self, run: RunConfig) -> None:
        """Start a run."""
        run_dir = local.make_run_directory(run)
        share_base_evaluation(run)
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


def _run_all(
    runs: Sequence[RunConfig],
    jobs: int,
    console: Console,
    *,
    skipped: int,
    after_each: Callable[[], None],
) -> tuple[list[Outcome], bool]:
    """All runs; returns what became of each, and whether it was interrupted."""
    if not runs:
        return [], False
    logs = Path(runs[0].runs_dir) / "logs"
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
    """A function that shows how far the sweep is.

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
