"""Who waits for whom?"""

from panels import Row, panel
from queries import last, quantile, quantiles, rate

ROWS = (
    Row(
        "Who waits for whom",
        (
            panel(
                "The learner's time",
                "By phase, mean of the ranks. wait: for rollouts; publish_wait: for weights to go.",
                (
                    f"{rate('learner_step_seconds_sum', 'phase')} / on (run) group_left () "
                    f"{rate('learner_step_seconds_sum')}",
                    "{{run}} {{phase}}",
                ),
                unit="percentunit",
                stack=True,
            ),
            panel(
                "Idle, busy, paused",
                "Learner waiting; generators with work, and paused for new weights; 10 minutes.",
                ("asyncds:learner_idle:ratio10m{@}", "{{run}} learner idle"),
                ("asyncds:generator_busy:ratio10m{@}", "{{run}} generators busy"),
                ("asyncds:generator_pause:ratio10m{@}", "{{run}} generators paused"),
                unit="percentunit",
            ),
            panel(
                "Generators wanted",
                "Healthy ones, and how many would keep the learner busy. docs/operations.md",
                ("asyncds:generators_healthy{@}", "{{run}} healthy"),
                ("asyncds:generator_replicas_desired{@}", "{{run}} desired"),
            ),
        ),
    ),
    Row(
        "Throughput",
        (
            panel(
                "Tokens per second",
                "Sampled counts evaluation too; generated is delivered for training.",
                (rate("generator_tokens_total"), "{{run}} sampled"),
                (rate("coordinator_tokens_generated_total"), "{{run}} generated"),
                (rate("coordinator_tokens_trained_total"), "{{run}} trained"),
            ),
            panel(
                "Groups per second",
                "By event.",
                (rate("coordinator_groups_total", "event"), "{{run}} {{event}}"),
            ),
            panel(
                "Step",
                "Time of a phase per batch, mean of the ranks.",
                (
                    f"{rate('learner_step_seconds_sum', 'phase')} / "
                    f"{rate('learner_step_seconds_count', 'phase')}",
                    "{{run}} {{phase}}",
                ),
                unit="s",
                stack=True,
            ),
        ),
    ),
    Row(
        "Inside the engines",
        (
            panel(
                "A completion",
                "From its request to its last token, and in vLLM's queue before that.",
                *quantiles("vllm:e2e_request_latency_seconds", "all"),
                *quantiles("vllm:request_queue_time_seconds", "queued"),
                unit="s",
            ),
            panel(
                "Tokens per engine step",
                "Prompts and completions together.",
                *quantiles("vllm:iteration_tokens_total"),
            ),
            panel(
                "DeepSpeed's timers",
                "Last batch, slowest rank. Only with wall_clock_breakdown in learner.deepspeed.",
                (last("learner_deepspeed_seconds", "timer"), "{{run}} {{timer}}"),
                unit="s",
            ),
        ),
    ),
    Row(
        "Staleness and losses",
        (
            panel(
                "Lag",
                "Of consumed groups, in weight versions, beside the bound.",
                ("asyncds:lag:mean10m{@}", "{{run}} mean"),
                (quantile(0.95, "coordinator_lag"), "{{run}} p95"),
                (last("coordinator_lag_bound"), "{{run}} bound"),
            ),
            panel(
                "Buffer",
                "Groups between lease and consumption, and those of them that are ready.",
                (last("coordinator_outstanding_groups"), "{{run}} outstanding"),
                (last("coordinator_buffered_groups"), "{{run}} ready"),
            ),
            panel(
                "Oldest lease",
                "Nobody has delivered it yet.",
                (last("coordinator_lease_age_seconds"), "{{run}}"),
                unit="s",
            ),
            panel(
                "Drops per second",
                "Groups given up, by reason.",
                ("asyncds:groups_dropped:rate10m{@}", "{{run}} {{reason}}"),
            ),
            panel(
                "Share dropped",
                "Of the groups consumed or dropped.",
                ("asyncds:groups_dropped:ratio10m{@}", "{{run}} {{reason}}"),
                unit="percentunit",
            ),
            panel(
                "Mismatch and sample size by lag",
                "What staleness costs. docs/algorithms.md",
                (last("learner_mismatch_kl_by_lag", "lag"), "{{run}} KL at lag {{lag}}"),
                (last("learner_ess_by_lag", "lag"), "{{run}} ESS at lag {{lag}}"),
                (last("learner_ess"), "{{run}} ESS"),
            ),
        ),
    ),
    Row(
        "Weights, scoring, checkpoints",
        (
            panel(
                "Weight sync",
                "prepare to verified; receive: joining, receiving and loading in a generator.",
                *quantiles("coordinator_sync_seconds", "sync"),
                *quantiles("generator_weight_receive_seconds", "receive"),
                unit="s",
            ),
            panel(
                "Weight syncs per second",
                "By result.",
                (rate("coordinator_syncs_total", "result"), "{{run}} {{result}}"),
            ),
            panel(
                "Scoring a group",
                "In the scorer's processes, waiting included.",
                *quantiles("generator_score_seconds"),
                unit="s",
            ),
            panel(
                "Writing a checkpoint",
                "Every rank.",
                *quantiles("learner_checkpoint_seconds"),
                unit="s",
            ),
        ),
    ),
)
