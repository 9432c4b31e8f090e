"""Making trackers from the configuration; what of them is installed."""

from importlib import metadata
from pathlib import Path

from asyncds.choices.open_kind import OpenKind
from asyncds.config.schema import RunConfig
from asyncds.config.trackers import (
    MlflowConfig,
    TensorBoardConfig,
    TrackerConfig,
    WandbConfig,
)
from asyncds.telemetry.trackers.follower import Follower
from asyncds.telemetry.trackers.public_config import public_config
from asyncds.telemetry.trackers.tracker import Tracker

_DISTRIBUTIONS = {
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "mlflow-skinny"),
}


def missing_package(tracker: TrackerConfig) -> str:
    """The package that is not installed and how to mend it, in a sentence, or ""."""
    if isinstance(tracker, OpenKind):
        return ""
    if any(_installed(name) for name in _DISTRIBUTIONS[tracker.kind]):
        return ""
    return (
        f"telemetry.trackers: {tracker.kind} needs the package {tracker.kind}: install "
        f"`asyncds[{tracker.kind}]`, or leave the tracker out"
    )


def make_tracker(tracker: TrackerConfig, *, run_dir: Path) -> Tracker:
    """A tracker that is not connected yet. Imports the tracker's own package."""
    match tracker:
        case OpenKind():
            return tracker.make(Tracker, run_dir=run_dir)  # type: ignore[type-abstract]
        case TensorBoardConfig():
            from asyncds.telemetry.trackers.tensorboard import TensorBoard

            return TensorBoard(run_dir=run_dir)
        case WandbConfig():
            from asyncds.telemetry.trackers.wandb import WeightsAndBiases

            return WeightsAndBiases(tracker, run_dir=run_dir)
        case MlflowConfig():
            from asyncds.telemetry.trackers.mlflow import MLflow

            return MLflow(tracker, run_dir=run_dir)


def make_follower(config: RunConfig, tracker: TrackerConfig, *, run_dir: Path) -> Follower:
    """The follower that sends the run there. Raises FollowedError if another process does."""
    return Follower(
        run_dir=run_dir,
        name=config.name,
        kind=tracker.kind,
        config=public_config(config),
        make=lambda: make_tracker(tracker, run_dir=run_dir),
    )


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
