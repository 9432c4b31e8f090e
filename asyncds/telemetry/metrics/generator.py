"""The metrics of a generator: what it samples, scores and receives."""

from functools import partial
from typing import get_args

from asyncds.config.sampling import Limit
from asyncds.scoring.scorer import Reason
from asyncds.telemetry.metrics.coordinator import SECONDS
from asyncds.telemetry.metrics.declaration import Metric

_gauge = partial(Metric, role="generator")
_counter = partial(Metric, role="generator", kind="counter")
_histogram = partial(Metric, role="generator", kind="histogram", unit="seconds", buckets=SECONDS)

GENERATOR: tuple[Metric, ...] = (
    _counter(name="tokens_total", help="Completion tokens sampled", unit="tokens"),
    _counter(name="sequences_total", help="Completions finished", unit="completions"),
    _gauge(name="running", help="Completions being decoded", unit="completions"),
    _gauge(name="leases", help="Leases held", unit="groups"),
    _gauge(
        name="unacknowledged_groups", help="Finished groups not acknowledged yet", unit="groups"
    ),
    _gauge(name="policy_version", help="Weight version in the engine", unit="version"),
    _histogram(name="weight_receive_seconds", help="Receiving weights, while sampling goes on"),
    _counter(
        name="pause_seconds_total",
        help="Time the engine was paused for new weights",
        unit="seconds",
    ),
    _histogram(name="score_seconds", help="Scoring one group"),
    _counter(
        name="score_errors_total",
        help="Completions that could not be scored, by reason",
        unit="completions",
        labels={"reason": get_args(Reason)},
    ),
    _counter(
        name="limits_total",
        help="Completions that a limit ended, by limit",
        unit="completions",
        labels={"limit": get_args(Limit)},
    ),
)
