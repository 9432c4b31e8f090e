"""`asyncds run`: the whole system on this machine."""

import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from asyncds.cli.children import Child, ChildFailedError, Children, python
from asyncds.cli.errors import UserError
from asyncds.cli.live import plain_line, render
from asyncds.cli.machine import gpus, uses_cuda, visible_devices
from asyncds.cli.placement import place
from asyncds.cli.preflight import preflight
from asyncds.cli.table import final_table
from asyncds.config.load import dump_config, load_config
from asyncds.config.schema import RunConfig
from asyncds.telemetry.summary import read_summary
from asyncds.transport.observer import Observer

POLL_SECONDS = 0.5
PLAIN_SECONDS = 5.0
"""Between two lines where the output is not a terminal."""
LEAVE_SECONDS = 20.0
"""For the processes to leave once the run is over."""


def run_command(
    *, config: Path | None, overrides: Sequence[str], resume: Path | None, replace: bool = False
) -> int:
    """Run a configuration, or go on with a run directory. Returns the exit code.

    replace: delete a run directory of that name first. Raises ConfigError and UserError before
    anything is started.
    """
    run = _absolute(_load(config, overrides, resume))
    run_dir = Path(run.runs_dir) / run.name
    replace = replace and resume is None and (run_dir / "config.yaml").exists()
    if problems := preflight(run, resume=resume is not None or replace):
        raise UserError(*problems)
    if replace:
        shutil.rmtree(run_dir)
    (run_dir / "logs").mkdir(parents=True, exist_ok=True)
    (run_dir / "summary.json").unlink(missing_ok=True)
    (run_dir / "config.yaml").write_text(dump_config(run))
    port = run.coordinator.port or _free_port()
    children = Children(_children(run, run_dir, port))
    console = Console()
    console.print(f"run directory {run_dir}; logs in {run_dir / 'logs'}")
    try:
        children.start()
        address = f"tcp://{run.coordinator.host}:{port}"
        problem = _watch(children, address, run_dir / "summary.json", console)
    finally:
        children.end(LEAVE_SECONDS)
    return _conclude(run_dir, problem, console)


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


def _absolute(run: RunConfig) -> RunConfig:
    """With directories of models as absolute paths, so that a run can be read from anywhere."""

    def absolute(name: str | None) -> str | None:
        return str(Path(name).resolve()) if name and Path(name).is_dir() else name

    generator = run.generator.model_copy(update={"model": absolute(run.generator.model)})
    update = {"model": absolute(run.model), "tokenizer": absolute(run.tokenizer)}
    return run.model_copy(update=update | {"generator": generator})


def _children(run: RunConfig, run_dir: Path, port: int) -> list[Child]:
    arguments = [str(run_dir / "config.yaml"), f"coordinator.port={port}"]
    arguments += [f"runs_dir={run.runs_dir}", f"name={run.name}"]
    quiet = {
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }
    if Path(run.model).is_dir():
        quiet["HF_HUB_OFFLINE"] = "1"
    learner = ["services.learner", *arguments]
    if run.learner.ranks > 1:
        learner = [
            "torch.distributed.run",
            "--nnodes=1",
            f"--nproc-per-node={run.learner.ranks}",
            "--master-addr=127.0.0.1",
            f"--master-port={_free_port()}",
            "-m",
            *learner,
        ]
    threads = {"OMP_NUM_THREADS": str(run.learner.cpu_threads)}
    for_learner, for_generators = _devices(run)
    return [
        Child(
            name="coordinator",
            command=python("asyncds.cli.main", "coordinator", *arguments),
            log=run_dir / "logs" / "coordinator-0.log",
            environment=quiet,
            follows=True,
        ),
        Child(
            name="learner",
            command=python(*learner),
            log=run_dir / "logs" / "learner-0.log",
            environment=quiet | threads | for_learner,
        ),
        *(
            Child(
                name=f"generator-{i}",
                command=python(
                    "asyncds.cli.main",
                    "generator",
                    f"--name=generator-{i}",
                    f"--index={i}",
                    *arguments,
                ),
                log=run_dir / "logs" / f"generator-{i}.log",
                environment=quiet | for_generators[i],
            )
            for i in range(run.generator.replicas)
        ),
    ]


def _devices(run: RunConfig) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The environment that gives the learner, and each generator, its GPUs."""
    c = run.generator
    if not uses_cuda():
        return {}, [{}] * c.replicas
    learner, generators = place(
        visible_devices() or [str(i) for i in range(len(gpus()))],
        ranks=run.learner.ranks,
        replicas=c.replicas,
        per_engine=c.tensor_parallel * c.pipeline_parallel,
    )
    name = "CUDA_VISIBLE_DEVICES"
    return {name: learner}, [{name: value} for value in generators]


def _watch(children: Children, address: str, summary: Path, console: Console) -> str:
    """Show progress until the coordinator has written its summary and ended, and start again
    whatever dies before; returns what went wrong, or ""."""
    observer = Observer(address)
    status: dict[str, Any] = {}
    message = ""
    try:
        with _interrupts() as interrupts, _display(console) as show:
            while children.coordinator.code is None or not summary.exists():
                if len(interrupts) > 1:
                    return "aborted"
                if summary.exists():
                    message = "the run is over; its processes are leaving"
                elif interrupts:
                    observer.stop("Ctrl-C")
                    message = "ending the run: checkpoint, drain, summary (Ctrl-C again to abort)"
                else:
                    message = "; ".join(children.tend()) or message
                status = observer.status(POLL_SECONDS) or status
                show(status | ({"message": message} if message else {}))
                time.sleep(POLL_SECONDS)
    except ChildFailedError as error:
        observer.stop(str(error).splitlines()[0])
        return str(error)
    finally:
        observer.close()
    return ""


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM, collected instead of raised."""
    seen: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(n, lambda number, _: seen.append(number)) for n in numbers]
    try:
        yield seen
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _display(console: Console) -> Iterator[Any]:
    """A function that shows a status: in place on a terminal, else a line now and then."""
    if console.is_terminal:
        with Live(render({}), console=console, refresh_per_second=4) as live:
            yield lambda status: live.update(render(status))
        return
    last = -PLAIN_SECONDS

    def line(status: dict[str, Any]) -> None:
        nonlocal last
        if status and time.monotonic() - last >= PLAIN_SECONDS:
            last = time.monotonic()
            print(plain_line(status), flush=True)

    yield line


def _conclude(run_dir: Path, problem: str, console: Console) -> int:
    summary = read_summary(run_dir / "summary.json")
    if problem:
        print(problem, file=sys.stderr)
    if summary is None:
        print(
            f"the run ended without a summary: see {run_dir / 'logs'}, then continue it with "
            f"`asyncds run --resume {run_dir}`",
            file=sys.stderr,
        )
        return 1
    from asyncds.telemetry.report import write_report

    report = write_report(run_dir)
    console.print(final_table(summary))
    console.print(f"report: {report}")
    if summary["status"] == "interrupted":
        console.print(f"go on with: asyncds run --resume {run_dir}")
    return 1 if problem or summary["status"] == "failed" else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
