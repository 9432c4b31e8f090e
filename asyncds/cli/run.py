"""`asyncds run`: the whole system, on this machine or started from it."""

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from asyncds.cli.live import plain_line, render
from asyncds.cli.table import final_table
from asyncds.config.load import load_config
from asyncds.config.schema import RunConfig
from asyncds.launch import local
from asyncds.launch.active_run import ABORTED, ActiveRun
from asyncds.launch.children import Child, Children
from asyncds.launch.errors import UserError
from asyncds.launch.interrupts import interrupts
from asyncds.launch.preflight import device_problems, preflight
from asyncds.launch.scaling import Scaling
from asyncds.launch.site import Site
from asyncds.protocol.records import RunStatus
from asyncds.telemetry.summary import read_summary

POLL_SECONDS = 0.5
PLAIN_SECONDS = 5.0
"""Seconds between two lines where the output is not a terminal."""


def run_command(
    *,
    config: Path | None,
    overrides: Sequence[str],
    resume: Path | None,
    replace: bool = False,
    go_on: bool = False,
    site: Site | None = None,
    detach: bool = False,
) -> int:
    """Run a configuration, or go on with a run directory. Returns the exit code.

    replace: delete a run directory of that name first. go_on: go on with it, if there is one.
    site: where its processes are put; default: all on this machine. detach: in a process of its
    own, which outlives this one and the terminal. Raises ConfigError and
    UserError before anything is started.
    """
    run = local.absolute_paths(_load(config, overrides, resume))
    run_dir = local.run_directory(run)
    there = (run_dir / "config.yaml").exists()
    if go_on and there:
        resume = run_dir
    replace = replace and resume is None and there
    if site is not None:
        run = site.prepared(run)
    if problems := preflight(run, resume=resume is not None or replace, placed=site is not None):
        raise UserError(*problems)
    if replace:
        shutil.rmtree(run_dir)
    lost = [] if resume is None else local.lost(run)
    local.make_run_directory(run)
    port = run.coordinator.port or local.free_port()
    console = Console()
    console.print(f"run directory {run_dir}; logs in {run_dir / 'logs'}")
    for sentence in lost:
        print(sentence, file=sys.stderr)
    if detach and _detached(run_dir, console):
        return 0

    def generators(n: int) -> list[Child]:
        more = run.model_copy(
            update={"generator": run.generator.model_copy(update={"replicas": n})}
        )
        if site is None and (problems := device_problems(more)):
            raise UserError(*problems)
        every = (local if site is None else site).children(more, port=port)
        return [child for child in every if child.name.startswith("generator-")]

    children = Children(
        (local if site is None else site).children(run, port=port), supervision=run.supervision
    )
    with interrupts() as signals:
        active = ActiveRun(
            children=children,
            scaling=Scaling(run_dir, generators=generators, children=children),
            address=f"tcp://{run.coordinator.host}:{port}",
            run_dir=run_dir,
            keys=local.client_keys(run),
        )
        try:
            _watch(active, signals, console)
        finally:
            active.end(hurry=lambda: bool(signals))
    return conclude(run_dir, active.problem, console)


def _detached(run_dir: Path, console: Console) -> bool:
    """Go on in a process of its own, whose output is a log: True in the one that is left."""
    log = run_dir / "logs" / "run.log"
    sys.stdout.flush()
    if os.fork():
        console.print(
            f"it goes on by itself (output: {log}); asyncds attach {run_dir} follows it, "
            f"asyncds stop {run_dir} ends it"
        )
        return True
    os.setsid()
    with open(os.devnull, "rb") as nothing, log.open("ab") as output:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    return False


def _load(config: Path | None, overrides: Sequence[str], resume: Path | None) -> RunConfig:
    if resume is None:
        assert config is not None
        return load_config(config, overrides)
    if not (resume / "config.yaml").is_file():
        raise UserError(f"{resume} is not a run directory: it has no config.yaml")
    run = load_config(resume / "config.yaml", overrides)
    if (Path(run.runs_dir) / run.name).resolve() != resume.resolve():
        run = load_config(
            resume / "config.yaml",
            [*overrides, f"runs_dir={resume.resolve().parent}", f"name={resume.resolve().name}"],
        )
    return run


def _watch(active: ActiveRun, signals: list[int], console: Console) -> None:
    """Show progress until the run is over. signals: those that arrive; they are taken out."""
    with display(console) as show:
        while not active.over:
            if signals:
                signals.pop()
                active.interrupt()
                continue
            active.turn(POLL_SECONDS)
            show(active.status)
            time.sleep(POLL_SECONDS)


@contextmanager
def display(console: Console) -> Iterator[Any]:
    """A function that shows a status: in place on a terminal, else a line now and then."""
    if console.is_terminal:
        with Live(render(RunStatus()), console=console, refresh_per_second=4) as live:
            yield lambda status: live.update(render(status))
        return
    last, page = -PLAIN_SECONDS, ""

    def line(status: RunStatus) -> None:
        nonlocal last, page
        if status.page != page:
            page = status.page
            print(f"live page: {page}", flush=True)
        if (status.name or status.message) and time.monotonic() - last >= PLAIN_SECONDS:
            last = time.monotonic()
            print(plain_line(status), flush=True)

    yield line


def conclude(run_dir: Path, problem: str, console: Console) -> int:
    """Show how a run ended. Returns the exit code. problem: why it could not go on, or ""."""
    summary = read_summary(run_dir / "summary.json")
    status = "ended without a summary" if summary is None else summary["status"]
    if summary is not None:
        _show_result(run_dir, summary, console)
    if problem:
        print(problem, file=sys.stderr)
    elif summary is not None and status == "failed":
        why = summary.get("reason") or f"see {run_dir / 'logs'}"
        print(f"the run failed: {why}", file=sys.stderr)
    elif summary is None:
        print(f"the run ended without a summary: see {run_dir / 'logs'}", file=sys.stderr)
    if status == "interrupted":
        console.print(f"go on with: asyncds run --resume {run_dir}")
    elif status != "finished" and any(run_dir.glob("checkpoints/step-[1-9]*/manifest.json")):
        mended = "" if problem == ABORTED else "once that is mended, "
        console.print(f"{mended}go on with: asyncds run --resume {run_dir}")
    return 1 if problem or status not in ("finished", "interrupted") else 0


def _show_result(run_dir: Path, summary: dict[str, Any], console: Console) -> None:
    from asyncds.telemetry.report.page import write_report
    from asyncds.telemetry.traces.timeline import merge_timeline

    for damaged in local.damaged_checkpoints(run_dir):
        console.print(
            f"a checkpoint was damaged, and the one before it was used: it is now {damaged}, which "
            "you may delete"
        )
    report = write_report(run_dir)
    console.print(final_table(summary))
    console.print(f"report: {report}")
    if timeline := merge_timeline(run_dir):
        console.print(f"timeline: {timeline} (open it at https://ui.perfetto.dev)")
