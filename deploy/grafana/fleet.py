"""Is every process well?"""

from declared import section
from panels import ANY, DRIFT, Row, graph, now, stat, states
from queries import RATE, last, quantiles, rate, recent

from asyncds.telemetry.metrics.declaration import Section

HEALTH = {
    "healthy": "green",
    "joining": "blue",
    "stale": "yellow",
    "suspect": "orange",
    "dead": "red",
}
ROWS = (
    now(
        stat(
            "Processes not read",
            "Targets that Prometheus does not reach.",
            'sum by (namespace, run) (1 - up{@, role=~".+"})',
            steps=ANY,
        ),
        stat(
            "Healthy generators",
            "Only they get work.",
            last("coordinator_members", match=', health="healthy"'),
            base="red",
            steps=((1, "green"),),
        ),
        stat(
            "Other generators",
            "Joining, without the published weights, silent, or dead.",
            'sum by (namespace, run) (asyncds_coordinator_members{@, health!="healthy"})',
            steps=((1, "orange"),),
        ),
        stat(
            "Stalls, 15 min",
            "Times that nothing at all moved for watch_seconds.",
            recent("coordinator_stalls_total"),
            steps=ANY,
            decimals=0,
        ),
        stat(
            "Turned away, 15 min",
            "Frames that were no message, and connections.",
            f"{recent('coordinator_rejected_frames_total')} + "
            f"{recent('coordinator_rejected_connections_total')}",
            steps=((1, "orange"),),
            decimals=0,
        ),
        stat(
            "KV cache in use",
            "Of the fullest engine.",
            last("vllm:kv_cache_usage_perc"),
            unit="percentunit",
            base="text",
        ),
        stat(
            "Disk free",
            "Share of the run directory's disk.",
            f"{last('coordinator_disk_free_bytes')} / {last('coordinator_disk_size_bytes')}",
            unit="percentunit",
            base="red",
            steps=((0.05, "green"),),
        ),
        stat(
            "Room",
            "Whether the run waits for room on its disk.",
            last("coordinator_disk_full"),
            words={0: ("enough", "green"), 1: ("waits", "red")},
        ),
    ),
    Row(
        "Health",
        (
            graph(
                "Generators by health",
                "As the coordinator sees them. Only healthy ones get work. "
                "Runs add up: choose one.",
                (last("coordinator_members", "health"), "{{run}} {{health}}"),
                stack=True,
                colours=HEALTH,
            ),
            states(
                "Processes",
                "Whether Prometheus reads them.",
                ('up{@, role=~".+"}', "{{run}} {{role}} {{instance}}"),
                words={0: ("not read", "red"), 1: ("read", "green")},
            ),
            graph(
                "Weight version",
                "Published, the learner's, and in each engine. They should move together.",
                (last("coordinator_policy_version"), "{{run}} published"),
                (last("learner_policy_version"), "{{run}} learner"),
                (last("generator_policy_version", "instance"), "{{run}} {{instance}}"),
            ),
        ),
    ),
    Row(
        "Faults",
        (
            graph(
                "Stalls in 15 minutes",
                "Times that nothing moved for watch_seconds. Any is an alert.",
                (recent("coordinator_stalls_total"), "{{run}}"),
                steps=ANY,
            ),
            graph(
                "Turned away in 15 minutes",
                "Frames that were no message; connections, by reason. Any is an alert.",
                (recent("coordinator_rejected_frames_total"), "{{run}} frames"),
                (
                    recent("coordinator_rejected_connections_total", "reason"),
                    "{{run}} connections, {{reason}}",
                ),
                steps=ANY,
            ),
            graph(
                "Completions not scored in 15 minutes",
                "By reason.",
                (recent("generator_score_errors_total", "reason"), "{{run}} {{reason}}"),
            ),
            graph(
                "Completions cut off in 15 minutes",
                "By the limit that ended them.",
                (recent("generator_limits_total", "limit"), "{{run}} {{limit}}"),
            ),
        ),
        height=6,
    ),
    Row(
        "Engines",
        (
            graph(
                "Tokens per second",
                "Sampled by each generator. One below the others is slow.",
                (rate("generator_tokens_total", "instance"), "{{run}} {{instance}}"),
            ),
            graph(
                "Completions per second",
                "Finished by each generator.",
                (rate("generator_sequences_total", "instance"), "{{run}} {{instance}}"),
            ),
            graph(
                "Time between tokens",
                "Of one completion, over all generators.",
                *quantiles("vllm:inter_token_latency_seconds"),
                unit="s",
            ),
            graph(
                "KV cache",
                "Share in use. At 100 % completions wait or are preempted.",
                (last("vllm:kv_cache_usage_perc", "instance"), "{{run}} {{instance}}"),
                unit="percentunit",
                top=1,
            ),
            graph(
                "Preempted completions per second",
                "The KV cache was full: they are computed again. Lower generator.max_num_seqs.",
                (rate("vllm:num_preemptions_total", "instance"), "{{run}} {{instance}}"),
            ),
            graph(
                "Prompts found in the prefix cache",
                "Share of their tokens. The rollouts of a group share a prompt.",
                (
                    f"{rate('vllm:prefix_cache_hits_total', 'instance')} / "
                    f"{rate('vllm:prefix_cache_queries_total', 'instance')}",
                    "{{run}} {{instance}}",
                ),
                unit="percentunit",
                top=1,
            ),
            graph(
                "Completions in the engine",
                "Being decoded, and (dashed) waiting for a place.",
                (last("generator_running", "instance"), "{{run}} {{instance}} running"),
                (last("vllm:num_requests_waiting", "instance"), "{{run}} {{instance}} waiting"),
                dashed=("waiting",),
            ),
            graph(
                "Leases",
                "Groups in work, and (dashed) finished ones that are not acknowledged.",
                (last("generator_leases", "instance"), "{{run}} {{instance}} held"),
                (
                    last("generator_unacknowledged_groups", "instance"),
                    "{{run}} {{instance}} unacknowledged",
                ),
                dashed=("unacknowledged",),
            ),
            graph(
                "Paused for weights",
                "Share of each generator's time. Over a fifth, as a mean of all, is an alert.",
                (rate("generator_pause_seconds_total", "instance"), "{{run}} {{instance}}"),
                unit="percentunit",
                steps=((0.2, "orange"),),
            ),
        ),
    ),
    Row("Agreement", section(Section.AGREEMENT, steps={"Mismatch by generator": DRIFT})),
    Row(
        "Processes and disk",
        (
            states(
                "Versions",
                "Of asyncds and of the libraries that are installed with each process.",
                (
                    "asyncds_build_info{@}",
                    "{{run}} {{instance}} asyncds {{version}}, Python {{python}}, "
                    "torch {{torch}}, vLLM {{vllm}}, DeepSpeed {{deepspeed}}",
                ),
                words={1: ("runs", "green")},
            ),
            graph(
                "Memory",
                "Resident, of the process that exports it; an engine's workers are not in it. "
                "Rising for hours: it leaks.",
                (
                    'process_resident_memory_bytes{@, role=~".+"}',
                    "{{run}} {{role}} {{instance}}",
                ),
                unit="bytes",
            ),
            graph(
                "CPU",
                "Cores, of the process that exports it. A coordinator near 1 is too slow for its "
                "fleet.",
                (
                    f'rate(process_cpu_seconds_total{{@, role=~".+"}}{RATE})',
                    "{{run}} {{role}} {{instance}}",
                ),
            ),
            graph(
                "Disk free",
                "Of the run directory's disk; dashed: its size.",
                (last("coordinator_disk_free_bytes"), "{{run}} free"),
                (last("coordinator_disk_size_bytes"), "{{run}} size"),
                unit="bytes",
                dashed=("size",),
            ),
            graph(
                "Journal",
                "With its write-ahead log. Old samples are deleted where it has a limit.",
                (last("coordinator_journal_bytes"), "{{run}}"),
                unit="bytes",
            ),
            states(
                "Out of room",
                "The run waits for room on a full disk; the journal is over its limit and needs "
                "all it has.",
                (last("coordinator_disk_full"), "{{run}} disk"),
                (last("coordinator_journal_exceeded"), "{{run}} journal"),
                words={0: ("enough room", "green"), 1: ("full", "red")},
            ),
            graph(
                "Given up for room in 15 minutes",
                "Groups whose samples were deleted; checkpoints that there was no room for.",
                (recent("coordinator_samples_deleted_total"), "{{run}} groups deleted"),
                (recent("learner_checkpoint_failures_total"), "{{run}} checkpoints left out"),
            ),
        ),
    ),
)
