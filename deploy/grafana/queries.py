"""PromQL of the panels. A query says `{@}` where it means the runs that are chosen on the
dashboard."""

RATE = "[$__rate_interval]"


def full(name: str) -> str:
    """A series of asyncds, unless it is one of vLLM."""
    return name if name.startswith("vllm:") else f"asyncds_{name}"


def last(name: str, *labels: str, match: str = "") -> str:
    """A gauge; of processes that report the same, one."""
    by = ", ".join(("run", *labels))
    return f"max by ({by}) ({full(name)}{{@{match}}})"


def rate(name: str, *labels: str, match: str = "") -> str:
    """A counter per second, of all processes together."""
    by = ", ".join(("run", *labels))
    return f"sum by ({by}) (rate({full(name)}{{@{match}}}{RATE}))"


def quantile(q: float, name: str) -> str:
    """Of a histogram, over all processes."""
    return f"histogram_quantile({q}, {rate(f'{name}_bucket', 'le')})"


def quantiles(name: str, what: str = "") -> tuple[tuple[str, str], ...]:
    """p50 and p95 of a histogram."""
    legend = f"{{{{run}}}} {what} ".replace("  ", " ")
    return ((quantile(0.5, name), f"{legend}p50"), (quantile(0.95, name), f"{legend}p95"))


def by_sign(name: str) -> tuple[str, str]:
    what = name.removesuffix("_fraction")
    return last(f"learner_{name}", "advantage"), f"{{{{run}}}} {what}, {{{{advantage}}}}"
