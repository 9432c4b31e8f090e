"""Is every process well?"""

from panels import Row, panel
from queries import RATE, last, quantiles, rate

ROWS = (
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
