"""The configuration of trackers: where a run's metrics are sent besides."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from asyncds.config.section import Section


class TensorBoardConfig(Section):
    """Event files in the run's directory: `tensorboard --logdir RUNS` (needs
    `asyncds[tensorboard]`)."""

    kind: Literal["tensorboard"] = "tensorboard"


class WandbConfig(Section):
    """Weights & Biases (needs `asyncds[wandb]`, and `wandb login` or WANDB_API_KEY)."""

    kind: Literal["wandb"] = "wandb"
    project: str = "asyncds"
    """The project there."""
    entity: str | None = None
    """The user or team that it belongs to; default: W&B's own default."""
    mode: Literal["online", "offline"] = "online"
    """`offline`: write files for `wandb sync` into the run's directory."""


class MlflowConfig(Section):
    """MLflow (needs `asyncds[mlflow]`; for a server, its user and password in
    MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)."""

    kind: Literal["mlflow"] = "mlflow"
    uri: str | None = None
    """The tracking server or store; default: `mlflow.db` beside the run's directory."""
    experiment: str = "asyncds"
    """The experiment there; it is made if need be."""


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


TrackerConfig = TensorBoardConfig | WandbConfig | MlflowConfig
_Tracker = Annotated[TrackerConfig, Field(discriminator="kind")]
Tracker = Annotated[
    _Tracker,
    BeforeValidator(
        _named, json_schema_input_type=_Tracker | Literal["tensorboard", "wandb", "mlflow"]
    ),
]
"""Also the name of a kind alone, which takes its defaults."""
