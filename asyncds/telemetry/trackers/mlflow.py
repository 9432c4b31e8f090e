"""MLflow: a tracking server, or a store on this machine."""

import time
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from asyncds.config.trackers import MlflowConfig
from asyncds.telemetry.trackers.tracker import (
    Record,
    evaluation_numbers,
    flat,
    step_numbers,
    summary_numbers,
)

_PARAM_CHARACTERS = 500
_PARAMS_AT_ONCE = 100
_METRICS_AT_ONCE = 1000
_ENDS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MLflow:
    """A run of the experiment.

    MLflow keeps both values of a step that was undone and trained again.
    """

    def __init__(self, config: MlflowConfig, *, run_dir: Path) -> None:
        self._config = config
        self._default = f"sqlite:///{run_dir.parent.resolve()}/mlflow.db"

    def begin(self, *, name: str, run: str, step: int, config: Record) -> str:
        """See `Tracker`."""
        self._client = MlflowClient(tracking_uri=self._config.uri or self._default)
        if run:
            self._run = run
            self._client.update_run(run, status="RUNNING")
            return run
        experiment = self._client.get_experiment_by_name(self._config.experiment)
        id = (
            experiment.experiment_id
            if experiment is not None
            else self._client.create_experiment(self._config.experiment)
        )
        self._run = self._client.create_run(id, run_name=name).info.run_id
        params = [
            Param(key, str(value)[:_PARAM_CHARACTERS]) for key, value in flat(config, between=".")
        ]
        for start in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(self._run, params=params[start : start + _PARAMS_AT_ONCE])
        return self._run

    def step(self, line: Record) -> None:
        """See `Tracker`."""
        self._metrics(line["step"], step_numbers(line), at=line.get("time"))

    def evaluation(self, result: Record) -> None:
        """See `Tracker`."""
        self._metrics(result["step"], evaluation_numbers(result))

    def rewind(self, step: int) -> None:
        """See `Tracker`: nothing that was logged can be taken back."""

    def flush(self) -> None:
        """See `Tracker`: every call returns when the server has answered."""

    def finish(self, summary: Record) -> None:
        """See `Tracker`."""
        self._metrics(summary["steps"], summary_numbers(summary))
        self._client.log_batch(self._run, tags=[RunTag("asyncds.status", summary["status"])])
        self._client.set_terminated(self._run, status=_ENDS[summary["status"]])

    def _metrics(self, step: int, numbers: dict[str, float], at: float | None = None) -> None:
        milliseconds = int(1000 * (at or time.time()))
        metrics = [
            # MLflow allows neither of the two characters.
            Metric(key.replace("@", "_at_").replace("=", "_"), value, milliseconds, step)
            for key, value in numbers.items()
        ]
        for start in range(0, len(metrics), _METRICS_AT_ONCE):
            self._client.log_batch(self._run, metrics=metrics[start : start + _METRICS_AT_ONCE])
