from prometheus_client import generate_latest

from asyncds.algo.quantiles import QUANTILES
from asyncds.telemetry.metrics.registry import build_metrics

REPORT = {
    **dict.fromkeys(("loss", "entropy", "grad_norm", "lr", "mismatch_kl", "ess"), 0.5),
    **{f"clip_fraction_{sign}": 0.1 for sign in ("positive", "negative")},
    **{
        f"{what}_{sign}": 0.2
        for what in ("truncated", "masked")
        for sign in ("positive", "negative")
    },
    **{
        f"{what}_{kind}": 0.3
        for what in ("ds_shift", "entropy")
        for kind in ("correct", "incorrect")
    },
    **{f"{name}/{q}": 0.4 for name in ("ratio", "importance_weight") for q in QUANTILES},
}


def test_lags_and_generators_are_those_of_the_last_batch() -> None:
    metrics = build_metrics("learner")

    def shown() -> set[str]:
        text = generate_latest(metrics.registry).decode()
        return {line for line in text.splitlines() if "_by_lag{" in line or "generator{" in line}

    assert shown() == set()
    metrics.record(
        "batch", {**REPORT, "ess/lag=0": 1.0, "ess/lag=2": 0.9, "ess/generator=a=b": 0.8}
    )
    assert shown() == {
        'asyncds_learner_ess_by_lag{lag="0"} 1.0',
        'asyncds_learner_ess_by_lag{lag="2"} 0.9',
        'asyncds_learner_ess_by_generator{generator="a=b"} 0.8',
    }
    metrics.record("batch", {**REPORT, "mismatch_kl/lag=1": 0.01})
    assert shown() == {'asyncds_learner_mismatch_kl_by_lag{lag="1"} 0.01'}


def test_classes_signs_and_quantiles() -> None:
    metrics = build_metrics("learner")
    metrics.record("batch", {**REPORT, "masked_negative": 0.7, "ratio/p99": 1.5})
    text = generate_latest(metrics.registry).decode()
    for line in (
        'entropy_by_class{class="incorrect"} 0.3',
        'truncated_fraction{advantage="positive"} 0.2',
        'masked_fraction{advantage="negative"} 0.7',
        'ratio{quantile="p99"} 1.5',
        'importance_weight{quantile="max"} 0.4',
    ):
        assert f"asyncds_learner_{line}" in text


def test_deepspeeds_timers_are_there_where_it_measures() -> None:
    metrics = build_metrics("learner")
    metrics.record("batch", REPORT)
    assert "deepspeed_seconds{" not in generate_latest(metrics.registry).decode()
    metrics.record("batch", {**REPORT, "deepspeed_seconds/bwd_inner": 0.25})
    text = generate_latest(metrics.registry).decode()
    assert 'asyncds_learner_deepspeed_seconds{timer="bwd_inner"} 0.25' in text
