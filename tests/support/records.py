"""Records with made-up numbers, but for those that a test names."""

from typing import Any

import msgspec

from asyncds.protocol.records import EvaluationRecord, RunStatus, StepRecord

_LINE: dict[str, Any] = {
    "version": 0,
    "time": 0.0,
    "groups": 2,
    "sequences": 4,
    "tokens": 8,
    "length": 2.0,
    "truncated": 0.0,
    "reward": 0.5,
    "correct": 0.5,
    "mixed_groups": 1.0,
    "solved_groups": 1.0,
    "distinct_correct": 1.0,
    "top_share": 1.0,
    "self_overlap": None,
    "lag_mean": 0.0,
    "lag_max": 0,
    "wall_seconds": 1.0,
    "tokens_per_second": None,
    "generated_tokens_per_second": 0.0,
    "outstanding": 0,
    "buffered": 0,
    "healthy": 1,
    "sync_seconds": None,
    "pause_seconds": None,
}
_RESULT: dict[str, Any] = {
    "version": 0,
    "step": 0,
    "split": "eval",
    "temperature": 1.0,
    "n_samples": 2,
    "n_problems": 3,
    "pass@k": {},
    "pass@k_interval": {},
    "equivalence": "written",
    "distinct_correct": 1.0,
    "distinct_correct_interval": [0.5, 1.5],
    "distinct": {"written": 1.0},
    "solution_multiplicity": None,
    "multiplicity": {"written": None},
    "top_share": None,
    "self_overlap": None,
    "normalised_variance": None,
    "entropy": None,
    "n_defined": {},
}


def step_record(line: dict[str, Any]) -> StepRecord:
    """The record of a line of metrics.jsonl, of which `step` (from 1) must be given."""
    return StepRecord.from_line(_LINE | line)


def evaluation_record(id: int, result: dict[str, Any]) -> EvaluationRecord:
    """The record of an entry of `eval` in summary.json."""
    return EvaluationRecord.from_result(_RESULT | result | {"id": id})


def run_status(values: dict[str, Any]) -> RunStatus:
    """The status of which status.json has these values."""
    return msgspec.convert(values, RunStatus)
