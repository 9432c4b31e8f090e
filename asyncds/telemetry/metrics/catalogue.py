"""Every Prometheus series of every role, on one page.

A series `steps_total` of the coordinator is exported as `asyncds_coordinator_steps_total`. All are
seeded with zero (labelled ones for the label values listed here), so that a query never misses
one that has not happened yet. A label without values here is one whose values a run brings; its
series are those of the last batch.
"""

from asyncds.telemetry.metrics.declaration import Role, Series


def _counter(name: str, help: str, **labels: tuple[str, ...]) -> Series:
    return Series(name=name, kind="counter", help=help, labels=labels)


def _gauge(name: str, help: str, **labels: tuple[str, ...]) -> Series:
    return Series(name=name, kind="gauge", help=help, labels=labels)


def _histogram(
    name: str, help: str, buckets: tuple[float, ...], **labels: tuple[str, ...]
) -> Series:
    return Series(name=name, kind="histogram", help=help, labels=labels, buckets=buckets)


_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_LAGS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)
_EVENTS = (
    "leased",
    "delivered",
    "duplicate",
    "batched",
    "consumed",
    "evicted",
    "kept_without_signal",
    "failed",
)
_HEALTH = ("joining", "stale", "healthy", "suspect", "dead")
_ENDS = ("finished", "interrupted", "failed")
_PHASES = ("wait", "forward_backward", "optimizer", "publish_wait", "checkpoint")
_SCORE_ERRORS = ("timeout", "memory", "crash", "exception")
_CLASSES = ("correct", "incorrect")
_SIGNS = ("positive", "negative")
_QUANTILES = ("p01", "p05", "p50", "p95", "p99", "max")

CATALOGUE: dict[Role, tuple[Series, ...]] = {
    "coordinator": (
        _counter("steps_total", "Training batches the learner has finished [batches]"),
        _gauge("policy_version", "Newest weight version published to the generators [version]"),
        _counter("groups_total", "Training groups, by event [groups]", event=_EVENTS),
        _counter(
            "groups_dropped_total",
            "Training groups given up, by reason [groups]",
            reason=("stale", "surplus", "zero_signal", "failed", "expired"),
        ),
        _gauge("outstanding_groups", "Training groups between lease and consumption [groups]"),
        _gauge("buffered_groups", "Training groups delivered and not yet in a batch [groups]"),
        _gauge("over", "Whether the run is over, by how it ended [0 or 1]", end=_ENDS),
        _histogram("lag", "Lag of a group when it is consumed [weight versions]", _LAGS),
        _gauge("lag_bound", "Largest lag that may be trained on [weight versions]"),
        _gauge("reward", "Mean reward of the last batch [reward]"),
        _gauge("correct_fraction", "Correct completions in the last batch [fraction]"),
        _gauge("solved_groups", "Groups of the last batch with a right completion [fraction]"),
        _gauge("distinct_correct", "Distinct correct answers per group, last batch [answers]"),
        _gauge(
            "distinct_answers",
            "Distinct correct answers per group, last batch, by what counts as the same [answers]",
            equivalence=(),
        ),
        _gauge("top_share", "Right ones of a group with its most frequent answer [fraction]"),
        _gauge("self_overlap", "Pairs of right ones of a group with the same answer [fraction]"),
        _gauge("mixed_groups", "Groups of the last batch with right and wrong ones [fraction]"),
        _gauge("pass_at_k", "Pass@k of the newest evaluation [fraction]", k=(), temperature=()),
        _gauge(
            "pass_at_k_bound",
            "Ends of the 95 % interval of Pass@k, newest evaluation [fraction]",
            k=(),
            temperature=(),
            bound=(),
        ),
        _gauge(
            "evaluation_distinct",
            "Distinct correct answers per held-out problem, newest evaluation [answers]",
            equivalence=(),
            temperature=(),
        ),
        _gauge(
            "evaluation_multiplicity",
            "Distinct correct answers that exist per held-out problem [answers]",
            equivalence=(),
        ),
        _gauge(
            "evaluation_top_share",
            "Right samples with their problem's most frequent answer [fraction]",
            temperature=(),
        ),
        _gauge(
            "evaluation_self_overlap",
            "Pairs of right samples of a problem with the same answer [fraction]",
            temperature=(),
        ),
        _gauge(
            "evaluation_normalised_variance",
            "Variance of the policy over right answers, by its correct mass squared [ratio]",
            temperature=(),
        ),
        _gauge("evaluation_entropy", "Entropy of the samples [nats per token]", temperature=()),
        _gauge("evaluation_version", "Weight version of the newest evaluation [version]"),
        _gauge("members", "Generators, by health [generators]", health=_HEALTH),
        _gauge("lease_age_seconds", "Age of the oldest lease nobody has delivered [seconds]"),
        _histogram("sync_seconds", "Weight sync, from prepare to verified [seconds]", _SECONDS),
        _counter("syncs_total", "Weight syncs, by result [syncs]", result=("ok", "failed")),
        _gauge("journal_bytes", "Size of the journal with its write-ahead log [bytes]"),
        _gauge(
            "journal_exceeded",
            "Whether the journal is over its limit and a restart may need all of it [0 or 1]",
        ),
        _counter("samples_deleted_total", "Groups whose samples were deleted for room [groups]"),
        _gauge("disk_full", "Whether the run waits for room on its disk [0 or 1]"),
        _gauge("disk_free_bytes", "Free space on the disk of the run directory [bytes]"),
        _gauge("disk_size_bytes", "Size of the disk of the run directory [bytes]"),
        _counter("tokens_generated_total", "Completion tokens delivered for training [tokens]"),
        _counter("tokens_trained_total", "Completion tokens trained on [tokens]"),
        _counter("stalls_total", "Times that nothing moved for watch_seconds [stalls]"),
        _counter(
            "rejected_frames_total",
            "Frames that were no well-formed message, or not for their sender to say [frames]",
        ),
        _counter(
            "rejected_connections_total",
            "Connections turned away, by reason [connections]",
            reason=("not_allowed", "handshake", "endless"),
        ),
    ),
    "generator": (
        _counter("tokens_total", "Completion tokens sampled [tokens]"),
        _counter("sequences_total", "Completions finished [completions]"),
        _gauge("running", "Completions being decoded [completions]"),
        _gauge("leases", "Leases held [groups]"),
        _gauge("unacknowledged_groups", "Finished groups not acknowledged yet [groups]"),
        _gauge("policy_version", "Weight version in the engine [version]"),
        _histogram("weight_receive_seconds", "Receiving and loading weights [seconds]", _SECONDS),
        _counter("pause_seconds_total", "Time the engine was paused for new weights [seconds]"),
        _histogram("score_seconds", "Scoring one group [seconds]", _SECONDS),
        _counter(
            "score_errors_total",
            "Completions that could not be scored, by reason [completions]",
            reason=_SCORE_ERRORS,
        ),
    ),
    "learner": (
        _histogram("step_seconds", "One batch, by phase [seconds]", _SECONDS, phase=_PHASES),
        _gauge("policy_version", "Weight version of the learner [version]"),
        _gauge("loss", "Loss of the last batch [loss]"),
        _gauge("kl", "KL divergence from the base model, last batch [nats per token]"),
        _gauge("entropy", "Entropy of the policy, last batch [nats per token]"),
        _gauge("grad_norm", "Norm of the gradient before clipping, last batch [norm]"),
        _gauge("lr", "Learning rate of the last batch [rate]"),
        _gauge(
            "entropy_by_class",
            "Entropy of the policy on correct and on incorrect completions [nats per token]",
            **{"class": _CLASSES},
        ),
        _gauge("mismatch_kl", "KL divergence of behaviour policy and learner [nats per token]"),
        _gauge(
            "mismatch_kl_by_lag",
            "KL divergence of behaviour policy and learner, by lag of the token [nats per token]",
            lag=(),
        ),
        _gauge(
            "mismatch_kl_by_generator",
            "KL divergence of behaviour policy and learner, by generator [nats per token]",
            generator=(),
        ),
        _gauge("ess", "Effective sample size of the importance weights [fraction]"),
        _gauge("ess_by_lag", "Effective sample size, by lag of the token [fraction]", lag=()),
        _gauge("ess_by_generator", "Effective sample size, by generator [fraction]", generator=()),
        _gauge(
            "ratio",
            "Quantiles over the last batch's tokens of the ratio that the loss uses [ratio]",
            quantile=_QUANTILES,
        ),
        _gauge(
            "importance_weight",
            "Quantiles over the last batch's tokens of learner to behaviour policy [ratio]",
            quantile=_QUANTILES,
        ),
        _gauge(
            "clip_fraction",
            "Tokens whose ratio is clipped, by sign of the advantage [fraction]",
            advantage=_SIGNS,
        ),
        _gauge(
            "truncated_fraction",
            "Tokens whose correction is truncated, by sign of the advantage [fraction]",
            advantage=_SIGNS,
        ),
        _gauge(
            "masked_fraction",
            "Tokens that the correction leaves out, by sign of the advantage [fraction]",
            advantage=_SIGNS,
        ),
        _gauge(
            "ds_shift",
            "Mean shift of the advantage by differential smoothing [advantage]",
            **{"class": _CLASSES},
        ),
        _gauge("deepspeed_seconds", "DeepSpeed's own timers, last batch [seconds]", timer=()),
        _counter("idle_seconds_total", "Time spent waiting for batches [seconds]"),
        _histogram("checkpoint_seconds", "Writing a checkpoint [seconds]", _SECONDS),
        _counter(
            "checkpoint_failures_total",
            "Checkpoints that there was no room for on the disk [checkpoints]",
        ),
    ),
}
