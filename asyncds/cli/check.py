"""`asyncds config check`: tells what would keep a run, or a sweep, from working here."""

from collections.abc import Sequence
from pathlib import Path

from asyncds.config.load import is_sweep, load_config
from asyncds.config.schema import RunConfig
from asyncds.launch.errors import UserError
from asyncds.launch.preflight import preflight
from asyncds.launch.prompts import prompt_problems
from asyncds.tasks.warned import warned


def check_command(file: Path, overrides: Sequence[str]) -> list[str]:
    """Check a file; returns what to tell. Raises ConfigError and UserError with what is wrong."""
    with warned() as notes:
        said = _check_sweep(file, overrides) if is_sweep(file) else _check_run(file, overrides)
    return [*(f"note: {note}" for note in notes), said]


def _check_run(file: Path, overrides: Sequence[str]) -> str:
    config = load_config(file, overrides)
    if problems := preflight(config) or prompt_problems(config):
        raise UserError(*problems)
    return f"{file} is fine: a run would be written to {Path(config.runs_dir) / config.name}"


def _check_sweep(file: Path, overrides: Sequence[str]) -> str:
    # Needs pandas, which takes a second.
    from asyncds.cli.slots import problems_of
    from asyncds.config.sweep import load_sweep

    _, runs = load_sweep(file, overrides)
    # Runs of one task and tokenizer have the same prompts.
    apart: dict[str, RunConfig] = {}
    for run in runs:
        c = run.config
        apart.setdefault(f"{c.tokenizer or c.model} {c.task.model_dump_json()}", c)
    problems = problems_of([run.config for run in runs], jobs=1)
    if problems := problems or [
        why for config in apart.values() for why in prompt_problems(config)
    ]:
        raise UserError(*dict.fromkeys(problems))
    where = Path(runs[0].config.runs_dir)
    return f"{file} is fine: a sweep of {len(runs)} runs, which would be written to {where}"
