"""vLLM's own Prometheus series, for a registry of ours."""

from collections.abc import Iterator

from prometheus_client import REGISTRY, Metric
from prometheus_client.registry import Collector

PREFIX = "vllm:"


class VllmMetrics(Collector):
    """The series that vLLM's engine in this process counts.

    vLLM keeps them in the process's default registry, whose other series are not of interest.
    """

    def collect(self) -> Iterator[Metric]:
        for family in REGISTRY.collect():
            if family.name.startswith(PREFIX):
                yield family
