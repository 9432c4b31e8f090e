"""Weights & Biases. The key is its own business: `wandb login`, or WANDB_API_KEY."""

import secrets
from pathlib import Path

import wandb

from asyncds.config.trackers import WandbConfig
from asyncds.telemetry.trackers.tracker import (
    Record,
    evaluation_numbers,
    step_numbers,
    summary_numbers,
)


class WeightsAndBiases:
    """A run of the project. Its files lie in `<run>/wandb`.

    The x axis is `step`, not W&B's count of calls, so that undone steps can be logged again; W&B
    keeps both values of such a step.
    """

    def __init__(self, config: WandbConfig, *, run_dir: Path) -> None:
        self._config, self._run_dir = config, run_dir

    def begin(self, *, name: str, run: str, step: int, config: Record) -> str:
        """See `Tracker`."""
        id = run or f"{name}-{secrets.token_hex(4)}"
        self._run = wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            mode=self._config.mode,
            name=name,
            id=id,
            resume="allow",
            dir=self._run_dir,
            config=dict(config),
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
                x_disable_meta=True,
            ),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return id

    def step(self, line: Record) -> None:
        """See `Tracker`."""
        self._run.log({"step": line["step"], **step_numbers(line)})

    def evaluation(self, result: Record) -> None:
        """See `Tracker`."""
        self._run.log({"step": result["step"], **evaluation_numbers(result)})

    def rewind(self, step: int) -> None:
        """See `Tracker`: nothing that was logged can be taken back."""

    def flush(self) -> None:
        """See `Tracker`: W&B writes everything to its file at once, and sends that by itself."""

    def finish(self, summary: Record) -> None:
        """See `Tracker`."""
        self._run.summary.update({"status": summary["status"], **summary_numbers(summary)})
        self._run.finish()
