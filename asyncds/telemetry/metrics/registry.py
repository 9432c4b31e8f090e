"""The series of one process, in a registry that /metrics is written from."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from asyncds.telemetry.machine import versions
from asyncds.telemetry.metrics.catalogue import exported
from asyncds.telemetry.metrics.declaration import Metric, Role

# A time stamp beside every counter and histogram would double the number of series.
disable_created_metrics()

AnySeries = Counter | Gauge | Histogram
T = TypeVar("T", Counter, Gauge, Histogram)

BUILD_INFO = "asyncds_build_info"
BUILD_HELP = "1; its labels are the versions of what is installed beside the process"


class Metrics:
    """The series of one role in a registry of their own.

    Unknown names raise KeyError, a name of another kind TypeError, wrong labels ValueError.
    """

    def __init__(self, table: Sequence[Metric]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        built = versions()
        Gauge(BUILD_INFO, BUILD_HELP, built, registry=self.registry).labels(**built).set(1)
        self._table = table
        self._series = {m.name: _register(m, self.registry) for m in table}

    def counter(self, name: str, **labels: str) -> Counter:
        """The counter `name`, for these labels."""
        return self._get(Counter, name, labels)

    def gauge(self, name: str, **labels: str) -> Gauge:
        """The gauge `name`, for these labels."""
        return self._get(Gauge, name, labels)

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The histogram `name`, for these labels."""
        return self._get(Histogram, name, labels)

    def record(
        self,
        kind: Literal["batch", "evaluation"],
        values: Mapping[str, float | None],
        **labels: str,
    ) -> None:
        """Set the gauges that come with a record from its values by key.

        What is not defined is NaN; what the record does not have stays as it was, but for a label
        whose values the run brings: a lag that is not in this batch has no series. labels: those of
        all values that their key does not have.
        """
        for metric in self._table:
            if metric.record != kind:
                continue
            gauge = self.gauge(metric.name)
            if metric.open and not labels:
                gauge.clear()
            shared = {name: value for name, value in labels.items() if name in metric.labels}
            for own, key in metric.found_in(values):
                value = values[key]
                at = own | shared
                (gauge.labels(**at) if at else gauge).set(math.nan if value is None else value)

    def _get(self, kind: type[T], name: str, labels: dict[str, str]) -> T:
        series = self._series[name]
        if not isinstance(series, kind):
            raise TypeError(f"{name} is not a {kind.__name__.lower()}")
        return series.labels(**labels) if labels else series


def build_metrics(role: Role) -> Metrics:
    """The series of `role`, all zero."""
    return Metrics(exported(role))


def _register(metric: Metric, registry: CollectorRegistry) -> AnySeries:
    name, text, labels = metric.series, metric.text, list(metric.labels)
    made: AnySeries
    match metric.kind:
        case "counter":
            made = Counter(name, text, labels, registry=registry)
        case "gauge":
            made = Gauge(name, text, labels, registry=registry)
        case "histogram":
            made = Histogram(name, text, labels, registry=registry, buckets=metric.buckets)
    for label, values in metric.labels.items():
        for value in values:
            made.labels(**{label: value})
    return made
