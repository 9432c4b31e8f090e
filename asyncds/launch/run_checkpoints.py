"""The checkpoints of a run directory, as its tools find them: whole, or a sentence."""

from dataclasses import dataclass
from pathlib import Path

from asyncds.launch.errors import UserError


@dataclass(frozen=True, kw_only=True)
class RunCheckpoint:
    """A checkpoint. model: its Hugging Face directory. step: training batches it has seen.

    is_adapter: whether that directory is an adapter's, beside the model the run began with.
    """

    step: int
    directory: Path

    @property
    def model(self) -> Path:
        return self.directory / "hf"

    @property
    def is_adapter(self) -> bool:
        return (self.model / "adapter_config.json").is_file()


def find_checkpoint(run_dir: Path, step: int | None) -> RunCheckpoint:
    """The checkpoint of `step`, or the newest; its files were compared with its manifest.

    Raises UserError where there is none, or it is not whole.
    """
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"{run_dir} is not a run directory: it has no config.yaml")
    found = _steps(run_dir)
    if not found:
        raise UserError(f"{run_dir} has no checkpoint: let the run write one (checkpoint.every)")
    if step is not None and step not in found:
        raise UserError(
            f"{run_dir} has no checkpoint of step {step}: choose one of "
            f"{', '.join(map(str, found))}"
        )
    chosen = found[-1] if step is None else step
    directory = run_dir.resolve() / "checkpoints" / f"step-{chosen}"
    _must_be_whole(directory)
    return RunCheckpoint(step=chosen, directory=directory)


def _steps(run_dir: Path) -> list[int]:
    names = [path.parent.name for path in run_dir.glob("checkpoints/step-*/manifest.json")]
    return sorted(int(n) for name in names if (n := name.removeprefix("step-")).isdigit())


def _must_be_whole(checkpoint: Path) -> None:
    from asyncds.engine.checkpoint import CheckpointError, verify

    try:
        verify(checkpoint)
    except CheckpointError as error:
        raise UserError(f"{error}: choose another with --step") from error
