"""Does it learn?"""

from panels import Row, panel
from queries import by_sign, last

ROWS = (
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
