"""The quantiles that are reported of a batch's ratios: their names and shares."""

QUANTILES = {"p01": 0.01, "p05": 0.05, "p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
