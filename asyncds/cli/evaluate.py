"""`asyncds eval`: a model, or a checkpoint of a run, evaluated as it is, on one task or several."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from asyncds.cli.eval_view import results_table
from asyncds.cli.export import merged_model
from asyncds.cli.slots import is_finished, problems_of, run_all
from asyncds.cli.sweep_view import outcome_line
from asyncds.config.load import load_config, read_values
from asyncds.config.schema import RunConfig
from asyncds.launch import local
from asyncds.launch.errors import UserError
from asyncds.launch.run_checkpoints import find_checkpoint
from asyncds.telemetry.evaluated import write_results, write_samples

_YAML = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that is evaluated.

    name: of the results. runs_dir: where they go, unless somebody says otherwise. model: settings
    that name it. config, settings: of the evaluation of its own task; config is None for a model.
    """

    name: str
    runs_dir: Path
    model: list[str]
    config: Path | None = None
    settings: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The evaluations to be made. folder: of their results. runs: each one's run, by its task."""

    folder: Path
    runs: dict[str, RunConfig]


def eval_command(
    *,
    source: str,
    overrides: Sequence[str],
    tasks: Sequence[Path],
    step: int | None,
    replace: bool,
) -> int:
    """Evaluate a model without a learner; returns the exit code.

    source: a model (a directory, a hub id), a run, of which the checkpoint of `step` or the newest
    is taken, or a configuration file. tasks: configuration files that say what is asked, or
    directories of such; none: the run's or the file's own task. replace: delete what is there.

    Every task is a run of no steps; what is finished is not made again, what was interrupted goes
    on. Raises ConfigError and UserError before anything is started.
    """
    planned = plan_evaluation(source=source, overrides=overrides, tasks=tasks, step=step)
    runs = [local.absolute_paths(run) for run in planned.runs.values()]
    directories = {name: local.run_directory(run) for name, run in planned.runs.items()}
    there = [d for d in directories.values() if (d / "config.yaml").exists()] if replace else []
    missing = [r for r in runs if local.run_directory(r) in there or not is_finished(r)]
    if problems := problems_of(missing, jobs=1):
        raise UserError(*problems)
    for directory in there:
        shutil.rmtree(directory)
    console = Console()
    logs = planned.folder / "logs"
    console.print(f"{len(missing)} of {len(runs)} evaluations to make; logs in {logs}")
    outcomes, interrupted = run_all(
        missing, 1, console, logs=logs, skipped=len(runs) - len(missing)
    )
    for outcome in (failed := [o for o in outcomes if o.status != "finished"]):
        console.print(outcome_line(outcome))
    if failed or interrupted:
        console.print("the same command goes on with it")
        return 1
    _conclude(planned.folder, directories, made=[o.name for o in outcomes], console=console)
    return 0


def plan_evaluation(
    *, source: str, overrides: Sequence[str], tasks: Sequence[Path], step: int | None
) -> Planned:
    """The evaluations that a command asks for. Raises ConfigError and UserError."""
    subject = _subject(source, step, overrides)
    named = {key: value for key, _, value in (o.partition("=") for o in overrides)}
    name = named.get("name", subject.name)
    runs_dir = Path(named.get("runs_dir", subject.runs_dir))
    given = [o for o in overrides if not o.startswith(("name=", "runs_dir="))]
    # Engines load the model itself: there is no learner to replace another's weights.
    fixed = ["generator.model=null", "steps=0"]
    folder = runs_dir / name
    if not tasks:
        if subject.config is None:
            raise UserError(
                f"{source} is a model: say what it is asked with --tasks FILE, a YAML file that "
                "has a task"
            )
        more = [*subject.settings, f"label={name}", *given, *fixed]
        place = [f"name={name}", f"runs_dir={runs_dir}"]
        return Planned(folder=folder, runs={name: load_config(subject.config, [*more, *place])})
    runs: dict[str, RunConfig] = {}
    for file in _files(tasks):
        if file.stem in runs:
            raise UserError(f"two tasks are called {file.stem}: rename {file}")
        apart = ["coordinator.port=0", "telemetry.port=0", f"label={name}"]
        place = [f"name={file.stem}", f"runs_dir={folder}"]
        settings = [*apart, *subject.model, *given, *fixed, *place]
        runs[file.stem] = load_config(file, settings)
    return Planned(folder=folder, runs=runs)


def _subject(source: str, step: int | None, overrides: Sequence[str]) -> Subject:
    path = Path(source).expanduser()
    is_run = (path / "config.yaml").is_file()
    if step is not None and not is_run:
        raise UserError(f"--step is one of a run's checkpoints, and {source} is no run directory")
    if is_run:
        return _of_run(path, step)
    if path.is_file() or path.suffix in _YAML:
        config = load_config(path, overrides)
        model = _model(config.model, config.tokenizer, config.dtype)
        return Subject(
            name=f"{config.name}-eval", runs_dir=Path(config.runs_dir), model=model, config=path
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(
            f"{source} is neither a run directory, which has a config.yaml, nor a Hugging Face "
            "model, which has a config.json"
        )
    name = path.resolve().name if path.is_dir() else path.name
    where = str(path.resolve()) if path.is_dir() else source
    return Subject(name=f"{name}-eval", runs_dir=Path("runs"), model=[f"model={where}"])


def _of_run(run_dir: Path, step: int | None) -> Subject:
    checkpoint = find_checkpoint(run_dir, step)
    values = read_values(run_dir / "config.yaml", ())
    model = _model(
        str(merged_model(run_dir, checkpoint)),
        values.get("tokenizer") or values["model"],
        values["dtype"],
    )
    return Subject(
        name=f"{run_dir.resolve().name}-eval-step-{checkpoint.step}",
        runs_dir=run_dir.resolve().parent,
        model=model,
        # That of supervised training asks nothing.
        config=run_dir / "config.yaml" if "task" in values else None,
        # The run may be going on.
        settings=[*model, "coordinator.port=0", "telemetry.port=0"],
    )


def _model(model: str, tokenizer: str | None, dtype: str) -> list[str]:
    return [f"model={model}", f"tokenizer={tokenizer or 'null'}", f"dtype={dtype}"]


def _files(tasks: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in tasks:
        found = sorted(p for p in path.iterdir() if p.suffix in _YAML) if path.is_dir() else [path]
        if not found:
            raise UserError(f"{path} has no .yaml file: each is a task to evaluate on")
        files += found
    return files


def _conclude(
    folder: Path, directories: dict[str, Path], *, made: Sequence[str], console: Console
) -> None:
    from asyncds.telemetry.report.page import write_report

    written = []
    for directory in directories.values():
        if directory.name in made or not (directory / "report.html").exists():
            write_report(directory)
            write_samples(directory)
        written += [directory / "samples.jsonl", directory / "report.html"]
    results = write_results(folder, directories)
    console.print(results_table(results, console))
    for path in (folder / "results.json", *written):
        console.print(str(path), soft_wrap=True)
