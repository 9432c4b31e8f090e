"""What Prometheus sees of a batch that was trained on."""

from collections.abc import Mapping

from asyncds.algo.diagnostics import QUANTILES
from asyncds.telemetry.metrics.registry import Metrics

TIMER = "deepspeed_seconds/"


def set_gauges(metrics: Metrics, report: Mapping[str, float]) -> None:
    """The learner's gauges of the last batch, from its report (the ``learner/`` keys of a line of
    metrics.jsonl, without that prefix)."""
    for name in ("loss", "entropy", "grad_norm", "lr", "mismatch_kl", "ess"):
        metrics.gauge(name).set(report[name])
    metrics.gauge("kl").set(report.get("kl", 0.0))
    for sign in ("positive", "negative"):
        metrics.gauge("clip_fraction", advantage=sign).set(report[f"clip_fraction_{sign}"])
        metrics.gauge("truncated_fraction", advantage=sign).set(report[f"truncated_{sign}"])
        metrics.gauge("masked_fraction", advantage=sign).set(report[f"masked_{sign}"])
    for kind in ("correct", "incorrect"):
        metrics.gauge("ds_shift", **{"class": kind}).set(report[f"ds_shift_{kind}"])
        metrics.gauge("entropy_by_class", **{"class": kind}).set(report[f"entropy_{kind}"])
    for name in ("ratio", "importance_weight"):
        for quantile in QUANTILES:
            metrics.gauge(name, quantile=quantile).set(report[f"{name}/{quantile}"])
    for key in report:
        if key.startswith(TIMER):
            metrics.gauge("deepspeed_seconds", timer=key.removeprefix(TIMER)).set(report[key])
    for name in ("mismatch_kl", "ess"):
        for way in ("lag", "generator"):
            gauge = metrics.gauge(f"{name}_by_{way}")
            gauge.clear()  # a lag or a generator that is not in this batch has no value
            prefix = f"{name}/{way}="
            for key in report:
                if key.startswith(prefix):
                    gauge.labels(key.removeprefix(prefix)).set(report[key])
