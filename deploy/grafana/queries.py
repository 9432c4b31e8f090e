"""PromQL of the panels. A query says `{@}` where it means the runs that are chosen on the
dashboard."""

RATE = "[$__rate_interval]"
LONG = "[10m]"
"""For shares and quantiles of what happens once per batch or weight sync; as in the rules."""
FIRING = 'ALERTS{@, alertname=~"Asyncds.+", alertstate="firing"}'
TRAINED = {
    "coordinator": "asyncds_coordinator_steps_total{@}",
    "learner": 'asyncds_learner_step_seconds_count{@, phase="optimizer"}',
}
"""Batches, as each role counts them."""


def chosen(query: str) -> str:
    """Of the runs that are chosen."""
    return query.replace("{@", '{namespace=~"$namespace", run=~"$run"')


def full(name: str) -> str:
    """A series of asyncds, unless it is one of vLLM."""
    return name if name.startswith("vllm:") else f"asyncds_{name}"


def by(*labels: str) -> str:
    return f"by ({', '.join(('namespace', 'run', *labels))})"


def last(name: str, *labels: str, match: str = "") -> str:
    """A gauge; of processes that report the same, one."""
    return f"max {by(*labels)} ({full(name)}{{@{match}}})"


def of_batch(name: str, *labels: str) -> str:
    """A gauge of the last batch. Before the first one a process exports zero, which is left out."""
    trained = TRAINED[name.partition("_")[0]]
    return f"max {by(*labels)} ({full(name)}{{@}} and on (namespace, run, instance) {trained} > 0)"


def rate(name: str, *labels: str, over: str = RATE) -> str:
    """A counter per second, of all processes together."""
    return f"sum {by(*labels)} (rate({full(name)}{{@}}{over}))"


def recent(name: str, *labels: str, match: str = "") -> str:
    """How much a counter that rarely moves rose in 15 minutes, as the alerts count."""
    return f"sum {by(*labels)} (increase({full(name)}{{@{match}}}[15m]))"


def quantile(q: float, name: str, over: str = RATE) -> str:
    """Of a histogram, over all processes."""
    return f"histogram_quantile({q}, {rate(f'{name}_bucket', 'le', over=over)})"


def quantiles(name: str, what: str = "", *, over: str = RATE) -> tuple[tuple[str, str], ...]:
    """p50 and p95 of a histogram."""
    legend = f"{{{{run}}}} {what} ".replace("  ", " ")
    return (
        (quantile(0.5, name, over), f"{legend}p50"),
        (quantile(0.95, name, over), f"{legend}p95"),
    )
