"""`asyncds sweep`: many runs, a few at a time, in processes that stay warm between them."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from fnmatch import fnmatchcase
from operator import attrgetter
from pathlib import Path

import yaml
from msgspec.structs import replace
from rich.console import Console

from asyncds.cli.slots import is_finished, problems_of, refuse_another, run_all
from asyncds.cli.sweep_view import outcome_line
from asyncds.compare.rows import RowsError, read_rows, write_rows
from asyncds.compare.runs import RunResult, make_result
from asyncds.config.load import dump_config, load_config, parse_config
from asyncds.config.schema import RunConfig
from asyncds.config.sweep import SweepRun, load_sweep
from asyncds.launch import local
from asyncds.launch.errors import UserError
from asyncds.protocol.records import EvaluationRecord, RecordError
from asyncds.rollout.journal import Journal
from asyncds.telemetry.summary import read_summary


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
    if problems := problems_of(runs, jobs):
        raise UserError(*problems)
    folder = Path(planned[0].config.runs_dir)
    console.print(
        f"{len(missing)} of {len(planned)} runs to make in {folder}; logs of learners and "
        f"generators in {folder / 'logs'}"
    )

    def keep() -> None:
        if results is not None:
            _keep(everything, results)

    outcomes, interrupted = run_all(
        runs,
        jobs,
        console,
        logs=folder / "logs",
        skipped=len(planned) - len(missing),
        prepare=share_base_evaluation,
        after_each=keep,
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
        refuse_another(there, planned.config, f"{planned.name} among the results")
        return True
    return is_finished(local.absolute_paths(planned.config))


def _keep(everything: Sequence[SweepRun], results: Path) -> None:
    """Add finished runs to the file of rows, in the order of the sweep.

    A row is what a run was asked for and what it reached, without paths of this machine.
    """
    kept = _read(results)
    there = {name: run for name, run in kept.items() if name not in {p.name for p in everything}}
    for one in everything:
        if one.name in kept:
            there[one.name] = kept[one.name]
        elif is_finished(local.absolute_paths(one.config)):
            config = yaml.safe_load(dump_config(one.config))
            summary = read_summary(local.run_directory(one.config) / "summary.json") or {}
            there[one.name] = make_result(one.name, config, summary, [])
    if there.keys() != kept.keys():
        write_rows(results, there)


def _read(results: Path | None) -> dict[str, RunResult]:
    """The runs that are kept. Raises UserError where that is no file of rows."""
    try:
        return {} if results is None else read_rows(results)
    except RowsError as error:
        raise UserError(str(error)) from error


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
    alike = ("model", "tokenizer", "dtype", "task", "eval", "sampling.max_tokens")
    if any(attrgetter(key)(there) != attrgetter(key)(like) for key in alike):
        return []
    try:
        made = [EvaluationRecord.from_result(result) for result in summary["eval"]]
    except RecordError:
        return []  # of another version of asyncds
    return [e for e in made if e.version == 0]
