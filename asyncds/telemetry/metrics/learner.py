"""The metrics of the learner.

One more is the line that computes it, in the learner's report of a batch, and its declaration here.
"""

from enum import StrEnum
from functools import partial

from asyncds.algo.quantiles import QUANTILES
from asyncds.telemetry.metrics import charts
from asyncds.telemetry.metrics.coordinator import SECONDS
from asyncds.telemetry.metrics.declaration import Chart, Metric, Section


class StepPhase(StrEnum):
    """The phases that the learner spends the time of a step on."""

    WAIT = "wait"
    FORWARD_BACKWARD = "forward_backward"
    OPTIMIZER = "optimizer"
    PUBLISH_WAIT = "publish_wait"
    CHECKPOINT = "checkpoint"


_CLASSES = ("correct", "incorrect")
_SIGNS = ("positive", "negative")
_FEW = ("p01", "p50", "p99")

_of_batch = partial(Metric, role="learner", record="batch")
_own = partial(Metric, role="learner")
_tokens = partial(_of_batch, unit="fraction", labels={"advantage": _SIGNS}, chart=charts.CLIPPED)


def _objective(title: str, note: str, *, few: tuple[str, ...] = ()) -> Chart:
    return Chart(title=title, note=note, section=Section.OBJECTIVE, few=few)


LEARNER: tuple[Metric, ...] = (
    _own(
        name="step_seconds",
        kind="histogram",
        help="One batch, by phase",
        unit="seconds",
        labels={"phase": tuple(StepPhase)},
        buckets=SECONDS,
    ),
    _own(name="policy_version", help="Weight version of the learner", unit="version"),
    _of_batch(
        name="loss",
        help="Loss of the last batch",
        unit="loss",
        key="loss",
        chart=_objective("Loss", "Its level says little: the advantages are relative."),
        curve="loss",
    ),
    _of_batch(
        name="kl",
        help="KL divergence from the base model, last batch",
        unit="nats per token",
        key="kl",
        chart=_objective(
            "KL from the base model", "Nats per token. Zero where the objective has no KL term."
        ),
        curve="KL",
    ),
    _of_batch(
        name="entropy",
        help="Entropy of the policy, last batch",
        unit="nats per token",
        key="entropy",
        chart=charts.ENTROPY,
        curve="all",
        summary=True,
    ),
    _of_batch(
        name="grad_norm",
        help="Norm of the gradient before clipping, last batch",
        unit="norm",
        key="grad_norm",
        chart=_objective(
            "Gradient norm",
            "Before clipping. Spikes are clipped; rising for long: the policy is unstable.",
        ),
        curve="norm",
        summary=True,
    ),
    _of_batch(
        name="updates_clipped",
        help="Share of the last batch's optimizer updates whose gradient was clipped",
        unit="fraction",
        key="updates_clipped",
        chart=_objective(
            "Clipped updates",
            "Share of updates whose gradient was scaled down to learner.max_grad_norm. Near 1: the "
            "objective's scale, such as γ, no longer changes the size of a step.",
        ),
        curve="clipped",
        summary=True,
    ),
    _of_batch(
        name="padding",
        help="Share of the positions computed for the last batch that hold nothing",
        unit="fraction",
        key="padding",
        chart=Chart(
            title="Padding",
            note="Share of the learner's positions that hold no token. Large: completions of one "
            "micro-batch differ much in length; a smaller learner.micro_batch_tokens helps.",
            section=Section.TIME,
        ),
        curve="padding",
    ),
    _of_batch(
        name="lr",
        help="Learning rate of the last batch",
        unit="rate",
        key="lr",
        chart=_objective("Learning rate", "Of each batch."),
        curve="rate",
    ),
    _of_batch(
        name="entropy_by_class",
        help="Entropy of the policy on correct and on incorrect completions",
        unit="nats per token",
        labels={"class": _CLASSES},
        key="entropy_{class}",
        chart=charts.ENTROPY,
        curve="{class}",
    ),
    _of_batch(
        name="mismatch_kl",
        help="KL divergence of behaviour policy and learner",
        unit="nats per token",
        key="mismatch_kl",
        chart=_objective(
            "Mismatch",
            "KL of behaviour policy and learner, nats per token. Over 0.01 for long, and three "
            "times what it was: an alert.",
        ),
        curve="mismatch",
        summary=True,
    ),
    _of_batch(
        name="mismatch_kl_by_lag",
        help="KL divergence of behaviour policy and learner, by lag of the token",
        unit="nats per token",
        labels={"lag": ()},
        key="mismatch_kl/lag={lag}",
        chart=Chart(
            title="Mismatch by lag",
            note="Behaviour policy to learner, nats per token, by lag of the token. Growing with "
            "the lag: the policy moves fast for its staleness.",
            section=Section.STALENESS,
            least_parts=2,
        ),
        curve="lag {lag}",
    ),
    _of_batch(
        name="mismatch_kl_by_generator",
        help="KL divergence of behaviour policy and learner, by generator",
        unit="nats per token",
        labels={"generator": ()},
        key="mismatch_kl/generator={generator}",
        chart=Chart(
            title="Mismatch by generator",
            note="Nats per token. One above the others, at like lags: that engine computes "
            "differently. Over 0.01 for long, and three times the median: an alert.",
            section=Section.AGREEMENT,
            least_parts=2,
        ),
        curve="{generator}",
    ),
    _of_batch(
        name="ess",
        help="Effective sample size of the importance weights",
        unit="fraction",
        key="ess",
        chart=charts.ESS,
        curve="all tokens",
        summary=True,
    ),
    _of_batch(
        name="ess_by_lag",
        help="Effective sample size, by lag of the token",
        unit="fraction",
        labels={"lag": ()},
        key="ess/lag={lag}",
        chart=charts.ESS,
        curve="lag {lag}",
    ),
    _of_batch(
        name="ess_by_generator",
        help="Effective sample size, by generator",
        unit="fraction",
        labels={"generator": ()},
        key="ess/generator={generator}",
        chart=Chart(
            title="Effective sample size by generator",
            note="Of the importance weights. One below the others: that engine computes "
            "differently.",
            section=Section.AGREEMENT,
            top=1.0,
            least_parts=2,
        ),
        curve="{generator}",
    ),
    _of_batch(
        name="ratio",
        help="Quantiles over the last batch's tokens of the ratio that the loss uses",
        unit="ratio",
        labels={"quantile": tuple(QUANTILES)},
        key="ratio/{quantile}",
        chart=_objective(
            "Ratio of the loss",
            "Of the policy to the one that the loss compares it with: quantiles over tokens. "
            "1: the policy has not moved.",
            few=_FEW,
        ),
        curve="{quantile}",
    ),
    _of_batch(
        name="importance_weight",
        help="Quantiles over the last batch's tokens of learner to behaviour policy",
        unit="ratio",
        labels={"quantile": tuple(QUANTILES)},
        key="importance_weight/{quantile}",
        chart=_objective(
            "Importance weight",
            "Learner to behaviour policy, quantiles over tokens. 1: they agree.",
            few=_FEW,
        ),
        curve="{quantile}",
    ),
    _tokens(
        name="clip_fraction",
        help="Tokens whose ratio is clipped, by sign of the advantage",
        key="clip_fraction_{advantage}",
        curve="clipped, {advantage}",
    ),
    _tokens(
        name="truncated_fraction",
        help="Tokens whose correction is truncated, by sign of the advantage",
        key="truncated_{advantage}",
        curve="truncated, {advantage}",
    ),
    _tokens(
        name="masked_fraction",
        help="Tokens that the correction leaves out, by sign of the advantage",
        key="masked_{advantage}",
        curve="masked, {advantage}",
    ),
    _of_batch(
        name="ds_shift",
        help="Mean shift of the advantage by differential smoothing",
        unit="advantage",
        labels={"class": _CLASSES},
        key="ds_shift_{class}",
        chart=_objective(
            "Differential smoothing",
            "Mean shift of the advantage of correct and incorrect completions. Zero where the "
            "advantage is not a DS one.",
        ),
        curve="{class}",
        summary=True,
    ),
    _of_batch(
        name="coefficient",
        help="Coefficients that have a schedule, as they were in force for the last batch",
        unit="coefficient",
        labels={"coefficient": ()},
        key="coefficient/{coefficient}",
        chart=_objective("Schedules", "Coefficients that change with the step, as configured."),
        curve="{coefficient}",
        smooth=False,
    ),
    _of_batch(
        name="deepspeed_seconds",
        help="DeepSpeed's own timers, last batch",
        unit="seconds",
        labels={"timer": ()},
        key="deepspeed_seconds/{timer}",
        chart=Chart(
            title="DeepSpeed's timers",
            note="Of one rank. Only with wall_clock_breakdown in learner.deepspeed.",
            section=Section.TIME,
        ),
        curve="{timer}",
    ),
    _own(
        name="idle_seconds_total",
        kind="counter",
        help="Time spent waiting for batches",
        unit="seconds",
    ),
    _own(
        name="checkpoint_seconds",
        kind="histogram",
        help="A checkpoint, from its beginning until it is on the disk, beside training",
        unit="seconds",
        buckets=SECONDS,
    ),
    _own(
        name="checkpoint_failures_total",
        kind="counter",
        help="Checkpoints that there was no room for on the disk",
        unit="checkpoints",
    ),
    # --- in metrics.jsonl alone ---
    *(
        _of_batch(
            key=f"seconds_{what}",
            help=help,
            unit="seconds",
            chart=charts.LEARNER_TIME,
            curve=curve,
        )
        for what, curve, help in (
            ("wait", "waiting", "Waiting for the batch; of the first one not counted"),
            ("update", "training", "Training on the batch"),
            ("publish", "publishing", "Bringing out weights, as far as it is waited for"),
            ("checkpoint", "checkpoint", "Copying a checkpoint, and waiting for the one before"),
        )
    ),
    _of_batch(key="seconds_total", help="All of the step", unit="seconds"),
    _of_batch(key="micro_batches", help="Micro-batches of the batch", unit="micro-batches"),
    _of_batch(key="policy_loss", help="Loss without KL and entropy terms", unit="loss"),
    _of_batch(key="advantage", help="Mean advantage over tokens", unit="advantage"),
    _of_batch(key="ratio", help="Mean of the ratio that the loss uses", unit="ratio"),
    _of_batch(
        key="importance_weight",
        help="Mean of learner to behaviour policy; its expectation is 1",
        unit="ratio",
    ),
    *(
        _of_batch(
            key=f"{name}/{part}={{{part}}}",
            labels={part: ()},
            help=f"{what}, by {part}",
            unit=unit,
        )
        for name, what, unit in (
            ("ratio", "Mean of the ratio that the loss uses", "ratio"),
            ("importance_weight", "Mean of learner to behaviour policy", "ratio"),
            ("tokens", "Tokens", "tokens"),
        )
        for part in ("lag", "generator")
    ),
)
