"""`asyncds eval`: a model, or a checkpoint of a run, evaluated as it is."""

from collections.abc import Sequence
from pathlib import Path

from asyncds.cli.run import run_command
from asyncds.config.load import load_config
from asyncds.launch.errors import UserError


def eval_command(*, source: Path, overrides: Sequence[str], step: int | None, replace: bool) -> int:
    """Evaluate the model of a configuration file, or a checkpoint, without a learner.

    A checkpoint is that of a run directory: of `step`, or the newest one. Returns the exit code.

    What is measured is the file's or the run's own, but for overrides. The result is a run
    directory, `<name>-eval` or `<name>-eval-step-<step>`. Raises ConfigError and UserError before
    anything is started.
    """
    if source.is_dir():
        config, settings = source / "config.yaml", _of_checkpoint(source, step)
    elif step is not None:
        raise UserError(f"--step is one of a run's checkpoints, and {source} is no run directory")
    else:
        config, settings = source, [f"name={load_config(source, overrides).name}-eval"]
    named = any(override.startswith("name=") for override in overrides)
    kept = [s for s in settings if not (named and s.startswith("name="))]
    # Engines load the model itself: there is no learner to replace another's weights.
    fixed = ["generator.model=null", "steps=0"]
    return run_command(
        config=config, overrides=[*kept, *overrides, *fixed], resume=None, replace=replace
    )


def _of_checkpoint(run_dir: Path, step: int | None) -> list[str]:
    """The settings that turn a run's configuration into that of one of its checkpoints."""
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"{run_dir} is not a run directory: it has no config.yaml")
    run = load_config(run_dir / "config.yaml", [])
    found = _steps(run_dir)
    if not found:
        raise UserError(f"{run_dir} has no checkpoint: let the run write one (checkpoint.every)")
    if step is not None and step not in found:
        raise UserError(
            f"{run_dir} has no checkpoint of step {step}: choose one of "
            f"{', '.join(map(str, found))}"
        )
    chosen = found[-1] if step is None else step
    checkpoint = run_dir.resolve() / "checkpoints" / f"step-{chosen}"
    _must_be_whole(checkpoint)
    return [
        f"name={run_dir.resolve().name}-eval-step-{chosen}",
        f"runs_dir={run_dir.resolve().parent}",
        f"model={checkpoint / 'hf'}",
        f"tokenizer={run.tokenizer or run.model}",
        # The run may be going on, and what it is compared as is the run's.
        "coordinator.port=0",
        "telemetry.port=0",
        "label=null",
    ]


def _steps(run_dir: Path) -> list[int]:
    names = [path.parent.name for path in run_dir.glob("checkpoints/step-*/manifest.json")]
    return sorted(int(n) for name in names if (n := name.removeprefix("step-")).isdigit())


def _must_be_whole(checkpoint: Path) -> None:
    from asyncds.engine.checkpoint import CheckpointError, verify

    try:
        verify(checkpoint)
    except CheckpointError as error:
        raise UserError(f"{error}: choose another with --step") from error
