"""The configuration of a small run."""

from typing import Any

from asyncds.config.schema import RunConfig

SAMPLED = {"algorithm": {"advantage": {"kind": "grpo"}}}
"""An objective that goes with dynamic sampling."""


def make_config(**changes: Any) -> RunConfig:
    """A small run; dotted names as in YAML."""
    values: dict[str, Any] = {
        "model": "none",
        "steps": 6,
        "rollout": {
            "groups_per_step": 3,
            "group_size": 2,
            "max_lag": 2,
            "straggler_seconds": 10,
            "lease_seconds": 20,
            "max_attempts": 3,
        },
        "eval": {"every": 3, "n_problems": 3, "n_samples": 2, "interim_samples": 2},
        "checkpoint": {"every": 2},
        "coordinator": {"suspect_seconds": 3, "dead_seconds": 8, "stall_seconds": 200},
        "weights": {"prepare_seconds": 3, "transfer_seconds": 5, "probe_every": 2},
        "learner": {"ranks": 1},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            values[section] = values[section] | {name: value}
        else:
            values[section] = value
    return RunConfig.model_validate(values)
