"""The configuration of trackers: where a run's metrics are sent besides."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator

from asyncds.choices.one_of import one_of
from asyncds.choices.open_kind import OpenKind
from asyncds.config.section import Section


class TensorBoardConfig(Section):
    """Event files in the run's directory (needs `asyncds[tensorboard]`).

    They are shown by `tensorboard --logdir RUNS`.
    """

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
    """MLflow (needs `asyncds[mlflow]`).

    For a server, its user and password are in MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD.
    """

    kind: Literal["mlflow"] = "mlflow"
    uri: str | None = None
    """The tracking server or store; default: `mlflow.db` beside the run's directory."""
    experiment: str = "asyncds"
    """The experiment there; it is made if need be."""


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


TrackerConfig = TensorBoardConfig | WandbConfig | MlflowConfig | OpenKind
if TYPE_CHECKING:
    Tracker = TrackerConfig
else:
    _Tracker = one_of((TensorBoardConfig, WandbConfig, MlflowConfig))
    Tracker = Annotated[_Tracker, BeforeValidator(_named, json_schema_input_type=_Tracker | str)]
"""Also the name of a kind alone, which takes its defaults."""
