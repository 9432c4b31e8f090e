"""Every metric of every role."""

from asyncds.telemetry.metrics.coordinator import COORDINATOR
from asyncds.telemetry.metrics.declaration import Chart, Metric, Role, Section
from asyncds.telemetry.metrics.generator import GENERATOR
from asyncds.telemetry.metrics.learner import LEARNER
from asyncds.telemetry.metrics.tasks import TASKS

CATALOGUE: dict[Role, tuple[Metric, ...]] = {
    "coordinator": (*COORDINATOR, *TASKS),
    "generator": GENERATOR,
    "learner": LEARNER,
}


def metrics() -> list[Metric]:
    """All of them, in the order of their declarations."""
    return [metric for declared in CATALOGUE.values() for metric in declared]


def exported(role: Role) -> list[Metric]:
    """The metrics that a role serves on /metrics."""
    return [metric for metric in CATALOGUE[role] if metric.name]


def drawn() -> dict[Chart, list[Metric]]:
    """The charts, by section and in the order of their declarations, with their metrics."""
    found: dict[Chart, list[Metric]] = {}
    for metric in metrics():
        if metric.chart is not None:
            found.setdefault(metric.chart, []).append(metric)
    order = list(Section)
    return dict(sorted(found.items(), key=lambda pair: order.index(pair[0].section)))
