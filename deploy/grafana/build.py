"""Writes the dashboards beside it: python deploy/grafana/build.py

A query says `{@}` where it means the runs that are chosen on the dashboard.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, COLUMNS = 8, 8, 3
"""Of a panel, in Grafana's grid of 24 columns."""
RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """A graph. queries: (PromQL, legend). unit: one of Grafana's. stack: areas that add up."""

    title: str
    description: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    stack: bool = False


@dataclass(frozen=True)
class Row:
    """A title and the panels under it."""

    title: str
    panels: tuple[Panel, ...]


def panel(
    title: str,
    description: str,
    *queries: tuple[str, str],
    unit: str = "short",
    stack: bool = False,
) -> Panel:
    return Panel(title, description, queries, unit, stack)


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


RUN = (
    Row(
        "Reward",
        (
            panel(
                "Reward",
                "Mean reward of the last batch, and over 15 minutes.",
                (last("coordinator_reward"), "{{run}}"),
                ("asyncds:reward:avg15m{@}", "{{run}} 15 min"),
            ),
            panel(
                "Right completions and groups",
                "Groups that are all right or all wrong teach nothing; mixed ones do.",
                (last("coordinator_correct_fraction"), "{{run}} completions right"),
                (last("coordinator_solved_groups"), "{{run}} groups solved"),
                (last("coordinator_mixed_groups"), "{{run}} groups mixed"),
                unit="percentunit",
            ),
            panel(
                "Steps and versions",
                "Batches trained by this coordinator, versions made, and the one evaluated last.",
                (last("coordinator_steps_total"), "{{run}} steps"),
                (last("coordinator_policy_version"), "{{run}} published"),
                (last("learner_policy_version"), "{{run}} learner"),
                (last("coordinator_evaluation_version"), "{{run}} evaluated"),
            ),
        ),
    ),
    Row(
        "Evaluation",
        (
            panel(
                "Pass@k",
                "Of the newest evaluation, which is on held-out problems.",
                (
                    last("coordinator_pass_at_k", "k", "temperature"),
                    "{{run}} Pass@{{k}} at {{temperature}}",
                ),
                unit="percentunit",
            ),
            panel(
                "Pass@k, 95 % interval",
                "Over the choice of problems, not over training seeds.",
                (
                    last("coordinator_pass_at_k_bound", "k", "temperature", "bound"),
                    "{{run}} Pass@{{k}} at {{temperature}}, {{bound}}",
                ),
                unit="percentunit",
            ),
            panel(
                "Distinct right answers per held-out problem",
                "By what counts as the same, beside how many there are to find.",
                (
                    last("coordinator_evaluation_distinct", "equivalence", "temperature"),
                    "{{run}} {{equivalence}} at {{temperature}}",
                ),
                (
                    last("coordinator_evaluation_multiplicity", "equivalence"),
                    "{{run}} {{equivalence}} exist",
                ),
            ),
            panel(
                "Sameness on held-out problems",
                "Chance that two right samples are the same, and share of the most frequent one.",
                (
                    last("coordinator_evaluation_self_overlap", "temperature"),
                    "{{run}} self-overlap at {{temperature}}",
                ),
                (
                    last("coordinator_evaluation_top_share", "temperature"),
                    "{{run}} top share at {{temperature}}",
                ),
                unit="percentunit",
            ),
            panel(
                "Normalised variance on held-out problems",
                "Variance of the policy over right answers, by its correct mass squared.",
                (
                    last("coordinator_evaluation_normalised_variance", "temperature"),
                    "{{run}} at {{temperature}}",
                ),
            ),
            panel(
                "Entropy on held-out problems",
                "Nats per token.",
                (
                    last("coordinator_evaluation_entropy", "temperature"),
                    "{{run}} at {{temperature}}",
                ),
            ),
        ),
    ),
    Row(
        "Diversity and entropy of training batches",
        (
            panel(
                "Distinct right answers per group",
                "By what counts as the same.",
                (last("coordinator_distinct_correct"), "{{run}} distinct"),
                (last("coordinator_distinct_answers", "equivalence"), "{{run}} {{equivalence}}"),
                ("asyncds:distinct_correct:avg15m{@}", "{{run}} 15 min"),
            ),
            panel(
                "Sameness",
                "Among the right ones of a group. Rising for long: the policy collapses.",
                (last("coordinator_self_overlap"), "{{run}} self-overlap"),
                (last("coordinator_top_share"), "{{run}} top share"),
                ("asyncds:self_overlap:avg15m{@}", "{{run}} self-overlap, 15 min"),
                unit="percentunit",
            ),
            panel(
                "Entropy",
                "Nats per token. Falling on right answers alone: they are being sharpened.",
                (last("learner_entropy"), "{{run}} all"),
                (last("learner_entropy_by_class", "class"), "{{run}} {{class}}"),
            ),
        ),
    ),
    Row(
        "Objective",
        (
            panel(
                "Differential smoothing",
                "Mean shift of the advantage. Zero where the advantage is not a DS one.",
                (last("learner_ds_shift", "class"), "{{run}} {{class}}"),
            ),
            panel(
                "KL from the base model",
                "Nats per token. Zero where algorithm has no KL term.",
                (last("learner_kl"), "{{run}}"),
            ),
            panel("Loss", "Of the last batch.", (last("learner_loss"), "{{run}}")),
            panel("Gradient norm", "Before clipping.", (last("learner_grad_norm"), "{{run}}")),
            panel("Learning rate", "Of the last batch.", (last("learner_lr"), "{{run}}")),
            panel(
                "Mismatch",
                "KL of behaviour policy and learner, nats per token. docs/algorithms.md",
                (last("learner_mismatch_kl"), "{{run}}"),
                ("asyncds:mismatch_kl:avg15m{@}", "{{run}} 15 min"),
            ),
            panel(
                "Clipped, truncated, masked",
                "Shares of tokens, by the sign of their advantage.",
                by_sign("clip_fraction"),
                by_sign("truncated_fraction"),
                by_sign("masked_fraction"),
                unit="percentunit",
            ),
            panel(
                "Ratio of the loss",
                "Quantiles over tokens.",
                (last("learner_ratio", "quantile"), "{{run}} {{quantile}}"),
            ),
            panel(
                "Importance weight",
                "Learner to behaviour policy, quantiles over tokens.",
                (last("learner_importance_weight", "quantile"), "{{run}} {{quantile}}"),
            ),
        ),
    ),
)

FLOW = (
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

FLEET = (
    Row(
        "Health",
        (
            panel(
                "Generators by health",
                "As the coordinator sees them. Only healthy ones get work.",
                (last("coordinator_members", "health"), "{{run}} {{health}}"),
                stack=True,
            ),
            panel(
                "Targets",
                "1: Prometheus reads the process.",
                ('up{@, role=~".+"}', "{{run}} {{role}} {{instance}}"),
            ),
            panel(
                "Weight version",
                "Published, the learner's, and in each engine.",
                (last("coordinator_policy_version"), "{{run}} published"),
                (last("learner_policy_version"), "{{run}} learner"),
                (last("generator_policy_version", "instance"), "{{run}} {{instance}}"),
            ),
        ),
    ),
    Row(
        "Engines",
        (
            panel(
                "Tokens per second",
                "Sampled by each generator.",
                (rate("generator_tokens_total", "instance"), "{{run}} {{instance}}"),
            ),
            panel(
                "Completions per second",
                "Finished by each generator.",
                (rate("generator_sequences_total", "instance"), "{{run}} {{instance}}"),
            ),
            panel(
                "KV cache",
                "Share in use.",
                (last("vllm:kv_cache_usage_perc", "instance"), "{{run}} {{instance}}"),
                unit="percentunit",
            ),
            panel(
                "Completions in the engine",
                "Being decoded, and waiting for a place.",
                (last("generator_running", "instance"), "{{run}} {{instance}} running"),
                (last("vllm:num_requests_waiting", "instance"), "{{run}} {{instance}} waiting"),
            ),
            panel(
                "Preempted completions per second",
                "The KV cache was full: they are computed again. Lower generator.max_num_seqs.",
                (rate("vllm:num_preemptions_total", "instance"), "{{run}} {{instance}}"),
            ),
            panel(
                "Prompts found in the prefix cache",
                "Share of their tokens. The rollouts of a group share a prompt.",
                (
                    f"{rate('vllm:prefix_cache_hits_total', 'instance')} / "
                    f"{rate('vllm:prefix_cache_queries_total', 'instance')}",
                    "{{run}} {{instance}}",
                ),
                unit="percentunit",
            ),
            panel(
                "Time between tokens",
                "Of one completion, over all generators.",
                *quantiles("vllm:inter_token_latency_seconds"),
                unit="s",
            ),
            panel(
                "Leases",
                "Groups in work, and finished ones that are not acknowledged.",
                (last("generator_leases", "instance"), "{{run}} {{instance}} held"),
                (
                    last("generator_unacknowledged_groups", "instance"),
                    "{{run}} {{instance}} unacknowledged",
                ),
            ),
            panel(
                "Paused for weights",
                "Share of each generator's time.",
                (rate("generator_pause_seconds_total", "instance"), "{{run}} {{instance}}"),
                unit="percentunit",
            ),
        ),
    ),
    Row(
        "Agreement",
        (
            panel(
                "Mismatch by generator",
                "One above the others, at like lags: that engine computes differently.",
                (last("learner_mismatch_kl_by_generator", "generator"), "{{run}} {{generator}}"),
            ),
            panel(
                "Effective sample size by generator",
                "Of the importance weights.",
                (last("learner_ess_by_generator", "generator"), "{{run}} {{generator}}"),
                unit="percentunit",
            ),
        ),
    ),
    Row(
        "Faults",
        (
            panel(
                "Completions not scored, per second",
                "By reason.",
                (rate("generator_score_errors_total", "reason"), "{{run}} {{reason}}"),
            ),
            panel(
                "Turned away, per second",
                "Frames that were no message; connections, by reason.",
                (rate("coordinator_rejected_frames_total"), "{{run}} frames"),
                (
                    rate("coordinator_rejected_connections_total", "reason"),
                    "{{run}} connections, {{reason}}",
                ),
            ),
            panel(
                "Stalls",
                "Times that nothing moved for watch_seconds.",
                (last("coordinator_stalls_total"), "{{run}}"),
            ),
        ),
    ),
    Row(
        "Processes",
        (
            panel(
                "Memory",
                "Resident, of the process that exports it; an engine's workers are not in it.",
                (
                    'process_resident_memory_bytes{@, role=~".+"}',
                    "{{run}} {{role}} {{instance}}",
                ),
                unit="bytes",
            ),
            panel(
                "CPU",
                "Cores, of the process that exports it.",
                (
                    f'rate(process_cpu_seconds_total{{@, role=~".+"}}{RATE})',
                    "{{run}} {{role}} {{instance}}",
                ),
            ),
            panel(
                "Journal and disk",
                "Size of the journal; free space and size of the run directory's disk.",
                (last("coordinator_journal_bytes"), "{{run}} journal"),
                (last("coordinator_disk_free_bytes"), "{{run}} free"),
                (last("coordinator_disk_size_bytes"), "{{run}} size"),
                unit="bytes",
            ),
            panel(
                "No room",
                "Waiting for room on a full disk; a journal over its limit that needs all it has; "
                "groups whose samples were deleted; checkpoints that there was no room for.",
                (last("coordinator_disk_full"), "{{run}} waits for room"),
                (last("coordinator_journal_exceeded"), "{{run}} journal over its limit"),
                (last("coordinator_samples_deleted_total"), "{{run}} groups deleted"),
                (last("learner_checkpoint_failures_total"), "{{run}} checkpoints left out"),
            ),
        ),
    ),
)

DASHBOARDS = {"run": RUN, "flow": FLOW, "fleet": FLEET}


def dashboard(name: str, rows: tuple[Row, ...]) -> dict[str, Any]:
    """Grafana's JSON model, for its import page and for provisioning from files."""
    return {
        "uid": f"asyncds-{name}",
        "title": f"asyncds: {name.capitalize()}",
        "tags": ["asyncds"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "schemaVersion": 39,
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [
            {"type": "dashboards", "title": "asyncds", "tags": ["asyncds"], "keepTime": True,
             "includeVars": True, "asDropdown": False, "icon": "external link",
             "targetBlank": False, "tooltip": "", "url": ""}
        ],
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Prometheus",
                 "query": "prometheus"},
                {"type": "query", "name": "run", "label": "Run", "datasource": SOURCE,
                 "query": "label_values(asyncds_coordinator_steps_total, run)", "refresh": 2,
                 "multi": True, "includeAll": True, "allValue": ".*",
                 "current": {"text": ["All"], "value": ["$__all"]}},
            ]
        },
        "panels": list(_placed(rows)),
    }  # fmt: skip


def _placed(rows: tuple[Row, ...]) -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        at = {"h": 1, "w": 24, "x": 0, "y": y}
        placed.append(
            {"id": len(placed) + 1, "type": "row", "title": row.title, "gridPos": at,
             "collapsed": False, "panels": []}
        )  # fmt: skip
        y += 1
        for i, content in enumerate(row.panels):
            down, across = divmod(i, COLUMNS)
            at = {"h": HEIGHT, "w": WIDTH, "x": across * WIDTH, "y": y + down * HEIGHT}
            placed.append(_graph(content, id=len(placed) + 1, at=at))
        y += HEIGHT * -(-len(row.panels) // COLUMNS)
    return placed


def _graph(panel: Panel, *, id: int, at: dict[str, int]) -> dict[str, Any]:
    custom: dict[str, Any] = {"lineWidth": 1, "showPoints": "never"}
    if panel.stack:
        custom |= {"fillOpacity": 40, "stacking": {"group": "A", "mode": "normal"}}
    return {
        "id": id,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": at,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": SOURCE,
                "expr": query.replace("{@", '{run=~"$run"'),
                "legendFormat": legend,
            }
            for i, (query, legend) in enumerate(panel.queries)
        ],
    }


def text(name: str) -> str:
    """Of the file of a dashboard."""
    return json.dumps(dashboard(name, DASHBOARDS[name]), indent=2) + "\n"


if __name__ == "__main__":
    for name in DASHBOARDS:
        (HERE / f"{name}.json").write_text(text(name))
