"""Who waits for whom?"""

from declared import section
from panels import SHARE, Row, graph, now, stat
from queries import LONG, last, quantile, quantiles, rate, recent

from asyncds.telemetry.metrics.declaration import Section

PHASES = {
    "wait": "red",
    "publish_wait": "orange",
    "forward_backward": "green",
    "optimizer": "blue",
    "checkpoint": "purple",
}
IDLE = ((0.5, "orange"),)
PAUSED = ((0.2, "orange"),)
SLOW = ((60, "orange"),)

ROWS = (
    now(
        stat(
            "Learner idle",
            "Share of 10 minutes that it waited for rollouts.",
            "asyncds:learner_idle:ratio10m{@}",
            unit="percentunit",
            steps=IDLE,
        ),
        stat(
            "Generators busy",
            "Share of 10 minutes with work, mean of all.",
            "asyncds:generator_busy:ratio10m{@}",
            unit="percentunit",
            base="text",
        ),
        stat(
            "Generators paused",
            "Share of 10 minutes that they took new weights, mean of all.",
            "asyncds:generator_pause:ratio10m{@}",
            unit="percentunit",
            steps=PAUSED,
        ),
        stat(
            "Lag, of its bound",
            "Mean lag of the groups trained in 10 minutes, as a share of max_lag.",
            f"asyncds:lag:mean10m{{@}} / on (namespace, run) {last('coordinator_lag_bound')}",
            unit="percentunit",
            steps=((0.8, "orange"),),
        ),
        stat(
            "Too stale",
            "Share of the groups of 10 minutes.",
            'asyncds:groups_dropped:ratio10m{@, reason="stale"}',
            unit="percentunit",
            steps=SHARE,
        ),
        stat(
            "Failed for good",
            "Share of the groups of 10 minutes.",
            'asyncds:groups_dropped:ratio10m{@, reason="failed"}',
            unit="percentunit",
            steps=((0.02, "orange"),),
        ),
        stat(
            "Not scored",
            "Share of the completions of 10 minutes.",
            "asyncds:score_errors:ratio10m{@}",
            unit="percentunit",
            steps=SHARE,
        ),
        stat(
            "Weight sync, p95",
            "Over 30 minutes.",
            "asyncds:sync_seconds:p95{@}",
            unit="s",
            steps=SLOW,
        ),
    ),
    Row(
        "Who waits for whom",
        (
            graph(
                "The learner's time",
                "By phase, mean of the ranks, 10 minutes. wait: for rollouts; publish_wait: for "
                "weights to go. Runs add up: choose one.",
                (
                    f"{rate('learner_step_seconds_sum', 'phase', over=LONG)} "
                    "/ on (namespace, run) group_left () "
                    f"{rate('learner_step_seconds_sum', over=LONG)}",
                    "{{run}} {{phase}}",
                ),
                unit="percentunit",
                stack=True,
                colours=PHASES,
            ),
            graph(
                "Idle, busy, paused",
                "Learner waiting; generators with work, and paused for new weights; 10 minutes. "
                "A learner that idles more than half of its time is an alert.",
                ("asyncds:learner_idle:ratio10m{@}", "{{run}} learner idle"),
                ("asyncds:generator_busy:ratio10m{@}", "{{run}} generators busy"),
                ("asyncds:generator_pause:ratio10m{@}", "{{run}} generators paused"),
                unit="percentunit",
                top=1,
            ),
            graph(
                "Generators wanted",
                "Healthy ones, and how many would keep the learner busy. docs/operations.md",
                ("asyncds:generators_healthy{@}", "{{run}} healthy"),
                ("asyncds:generator_replicas_desired{@}", "{{run}} desired"),
                dashed=("desired",),
            ),
        ),
    ),
    Row(
        "Throughput",
        (
            graph(
                "Tokens per second",
                "Sampled counts evaluation too; generated is delivered for training. "
                "Generated well above trained: groups are thrown away.",
                (rate("generator_tokens_total"), "{{run}} sampled"),
                (rate("coordinator_tokens_generated_total"), "{{run}} generated"),
                (rate("coordinator_tokens_trained_total"), "{{run}} trained"),
            ),
            graph(
                "Groups per second",
                "By event. Leased, delivered, batched and consumed go together when all flows.",
                (rate("coordinator_groups_total", "event"), "{{run}} {{event}}"),
            ),
            graph(
                "Time of a step",
                "By phase, mean of the ranks, 10 minutes. Runs add up: choose one.",
                (
                    f"{rate('learner_step_seconds_sum', 'phase', over=LONG)} / "
                    f"{rate('learner_step_seconds_count', 'phase', over=LONG)}",
                    "{{run}} {{phase}}",
                ),
                unit="s",
                stack=True,
                colours=PHASES,
            ),
        ),
    ),
    Row(
        "Inside the engines",
        (
            graph(
                "A completion",
                "From its request to its last token, and in vLLM's queue before that. Much of it "
                "queued: generator.max_num_seqs or the KV cache is full.",
                *quantiles("vllm:e2e_request_latency_seconds", "all"),
                *quantiles("vllm:request_queue_time_seconds", "queued"),
                unit="s",
            ),
            graph(
                "Tokens per engine step",
                "Prompts and completions together. Few: the engine has room for more at once.",
                *quantiles("vllm:iteration_tokens_total"),
            ),
            *section(Section.TIME),
        ),
    ),
    Row(
        "Staleness and losses",
        (
            graph(
                "Lag",
                "Of the groups consumed in 10 minutes, in weight versions; dashed: the bound.",
                ("asyncds:lag:mean10m{@}", "{{run}} mean"),
                (quantile(0.95, "coordinator_lag", LONG), "{{run}} p95"),
                (last("coordinator_lag_bound"), "{{run}} bound"),
                dashed=("bound",),
            ),
            *section(Section.STALENESS),
            graph(
                "Buffer",
                "Groups between lease and consumption, and those of them that are ready. "
                "Ready stays at zero: the learner waits for them.",
                (last("coordinator_outstanding_groups"), "{{run}} outstanding"),
                (last("coordinator_buffered_groups"), "{{run}} ready"),
            ),
            graph(
                "Oldest lease",
                "Nobody has delivered it yet. Rising steadily: its generator hangs.",
                (last("coordinator_lease_age_seconds"), "{{run}}"),
                unit="s",
            ),
            graph(
                "Share dropped",
                "Of the groups consumed or dropped in 10 minutes. The line is that of stale ones.",
                ("asyncds:groups_dropped:ratio10m{@}", "{{run}} {{reason}}"),
                unit="percentunit",
                steps=SHARE,
            ),
        ),
    ),
    Row(
        "Weights, scoring, checkpoints",
        (
            graph(
                "Weight sync",
                "10 minutes. sync: prepare to verified; receive: joining, receiving and loading in "
                "a generator.",
                *quantiles("coordinator_sync_seconds", "sync", over=LONG),
                *quantiles("coordinator_sync_send_seconds", "send", over=LONG),
                *quantiles("generator_weight_receive_seconds", "receive", over=LONG),
                unit="s",
            ),
            graph(
                "Failed weight syncs in 15 minutes",
                "More than two: an alert.",
                (recent("coordinator_syncs_total", match=', result="failed"'), "{{run}}"),
                steps=((2, "red"),),
            ),
            graph(
                "Difference of the probe",
                "Log-probabilities of one text, engine against learner, at the last weight sync "
                "that was probed. Over its bound an engine serves nothing.",
                ("asyncds_coordinator_probe_distance{@}", "{{run}} difference"),
                ("asyncds_coordinator_probe_level{@}", "{{run}} bound"),
            ),
            graph(
                "Scoring a group",
                "In the scorer's processes, waiting included. It delays the delivery.",
                *quantiles("generator_score_seconds"),
                unit="s",
            ),
            graph(
                "Writing a checkpoint",
                "Every rank, over an hour: until the checkpoint is on the disk. The learner trains "
                "meanwhile; what holds it up is in its step's time.",
                *quantiles("learner_checkpoint_seconds", over="[1h]"),
                unit="s",
            ),
        ),
        columns=2,
    ),
)
