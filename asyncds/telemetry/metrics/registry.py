"""The series of one process, in a registry that /metrics is written from."""

from collections.abc import Sequence
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from asyncds.telemetry.metrics.catalogue import CATALOGUE
from asyncds.telemetry.metrics.declaration import Role, Series

# A time stamp beside every counter and histogram would double the number of series.
disable_created_metrics()

AnySeries = Counter | Gauge | Histogram
T = TypeVar("T", Counter, Gauge, Histogram)


class Metrics:
    """The series of one role in a registry of their own. Unknown names raise KeyError, a name of
    another kind TypeError, wrong labels ValueError."""

    def __init__(self, role: Role, table: Sequence[Series]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._series = {s.name: _register(role, s, self.registry) for s in table}

    def counter(self, name: str, **labels: str) -> Counter:
        """The counter `name`, for these labels."""
        return self._get(Counter, name, labels)

    def gauge(self, name: str, **labels: str) -> Gauge:
        """The gauge `name`, for these labels."""
        return self._get(Gauge, name, labels)

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The histogram `name`, for these labels."""
        return self._get(Histogram, name, labels)

    def _get(self, kind: type[T], name: str, labels: dict[str, str]) -> T:
        series = self._series[name]
        if not isinstance(series, kind):
            raise TypeError(f"{name} is not a {kind.__name__.lower()}")
        return series.labels(**labels) if labels else series


def build_metrics(role: Role) -> Metrics:
    """The series of `role`, all zero."""
    return Metrics(role, CATALOGUE[role])


def _register(role: Role, series: Series, registry: CollectorRegistry) -> AnySeries:
    name, labels = f"asyncds_{role}_{series.name}", list(series.labels)
    made: AnySeries
    match series.kind:
        case "counter":
            made = Counter(name, series.help, labels, registry=registry)
        case "gauge":
            made = Gauge(name, series.help, labels, registry=registry)
        case "histogram":
            made = Histogram(name, series.help, labels, registry=registry, buckets=series.buckets)
    for label, values in series.labels.items():
        for value in values:
            made.labels(**{label: value})
    return made
