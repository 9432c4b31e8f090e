"""Does it learn?"""

from panels import ANY, DRIFT, Row, graph, now, stat, states
from queries import FIRING, by_sign, last, of_batch


def over(end: str) -> str:
    """Whether the run ended so, 0 or 1."""
    return last("coordinator_over", match=f', end="{end}"')


NONE = f"0 * {last('coordinator_steps_total')}"
"""A zero for every run."""

ROWS = (
    now(
        stat(
            "Alerts that fire",
            "How many.",
            f"sum by (run) ({FIRING}) or {NONE}",
            steps=ANY,
        ),
        stat(
            "The run",
            "How it ended is known only where its coordinator stays (coordinator.stay).",
            " + ".join((over("finished"), f"2 * {over('interrupted')}", f"3 * {over('failed')}")),
            words={
                0: ("goes on", "green"),
                1: ("finished", "blue"),
                2: ("interrupted", "orange"),
                3: ("failed", "red"),
            },
        ),
        stat(
            "Version",
            "Of the learner's weights.",
            last("learner_policy_version"),
            base="text",
            decimals=0,
        ),
        stat(
            "Batches per minute",
            "Over 15 minutes. Zero for half an hour is an alert.",
            "sum by (run) (rate(asyncds_coordinator_steps_total{@}[15m])) * 60",
            base="text",
        ),
        stat("Reward", "Over 15 minutes.", "asyncds:reward:avg15m{@}", base="text"),
        stat(
            "Pass@1",
            "Of the newest evaluation, on held-out problems; of several temperatures, the best.",
            last("coordinator_pass_at_k", match=', k="1"'),
            unit="percentunit",
            base="text",
        ),
        stat(
            "Self-overlap",
            "Over 15 minutes: chance that two right answers of a group are the same. "
            "0.2 above what it was: an alert.",
            "asyncds:self_overlap:avg15m{@}",
            unit="percentunit",
            base="text",
        ),
        stat(
            "Mismatch",
            "Over 15 minutes, nats per token. From 0.01 on, and three times what it was: an alert.",
            "asyncds:mismatch_kl:avg15m{@}",
            steps=DRIFT,
        ),
    ),
    Row(
        "Alerts",
        (
            states(
                "Which alerts fire",
                "Red marks in the graphs of all dashboards are the same. What to do: "
                "docs/operations.md",
                (
                    f"max by (run, alertname) ({FIRING}) "
                    f'or on (run) label_replace({NONE}, "alertname", "none", "", "")',
                    "{{run}} {{alertname}}",
                ),
                words={0: ("none", "green"), 1: ("fires", "red")},
            ),
        ),
        height=5,
    ),
    Row(
        "Reward",
        (
            graph(
                "Reward",
                "Mean reward of the last batch, and over 15 minutes. It should rise. "
                "Half of its best: an alert.",
                (of_batch("coordinator_reward"), "{{run}}"),
                ("asyncds:reward:avg15m{@}", "{{run}} 15 min"),
            ),
            graph(
                "Right completions and groups",
                "Solved: with a right completion. Groups that are all right or all wrong teach "
                "nothing; mixed ones do.",
                (of_batch("coordinator_correct_fraction"), "{{run}} completions right"),
                (of_batch("coordinator_solved_groups"), "{{run}} groups solved"),
                (of_batch("coordinator_mixed_groups"), "{{run}} groups mixed"),
                unit="percentunit",
                top=1,
            ),
            graph(
                "Steps and versions",
                "Batches trained by this coordinator, versions made, and the one evaluated last. "
                "A flat line: nothing is trained.",
                (last("coordinator_steps_total"), "{{run}} steps"),
                (last("coordinator_policy_version"), "{{run}} published"),
                (last("learner_policy_version"), "{{run}} learner"),
                (last("coordinator_evaluation_version"), "{{run}} evaluated"),
            ),
        ),
    ),
    Row(
        "Evaluation on held-out problems",
        (
            graph(
                "Pass@k",
                "Of the newest evaluation. k = 1 up and the largest k down: right answers are "
                "sharpened, not found.",
                (
                    last("coordinator_pass_at_k", "k", "temperature"),
                    "{{run}} Pass@{{k}}, T {{temperature}}",
                ),
                unit="percentunit",
            ),
            graph(
                "95 % interval of Pass@k",
                "Over the choice of problems, not over training seeds. Curves that stay within it "
                "have not moved.",
                (
                    last("coordinator_pass_at_k_bound", "k", "temperature", "bound"),
                    "{{run}} Pass@{{k}} {{bound}}, T {{temperature}}",
                ),
                unit="percentunit",
            ),
            graph(
                "Distinct right answers per problem",
                "By what counts as the same; dashed: how many there are to find.",
                (
                    last("coordinator_evaluation_distinct", "equivalence", "temperature"),
                    "{{run}} {{equivalence}}, T {{temperature}}",
                ),
                (
                    last("coordinator_evaluation_multiplicity", "equivalence"),
                    "{{run}} {{equivalence}} exist",
                ),
                dashed=("exist",),
            ),
            graph(
                "Sameness",
                "Chance that two right samples are the same, and share of the most frequent one. "
                "Both rise in a collapse.",
                (
                    last("coordinator_evaluation_self_overlap", "temperature"),
                    "{{run}} self-overlap, T {{temperature}}",
                ),
                (
                    last("coordinator_evaluation_top_share", "temperature"),
                    "{{run}} top share, T {{temperature}}",
                ),
                unit="percentunit",
                top=1,
            ),
            graph(
                "Normalised variance",
                "Variance of the policy over right answers, by its correct mass squared. "
                "0: all right answers are alike likely.",
                (
                    last("coordinator_evaluation_normalised_variance", "temperature"),
                    "{{run}} T {{temperature}}",
                ),
            ),
            graph(
                "Entropy of samples",
                "Nats per token.",
                (
                    last("coordinator_evaluation_entropy", "temperature"),
                    "{{run}} T {{temperature}}",
                ),
            ),
        ),
    ),
    Row(
        "Diversity and entropy of training batches",
        (
            graph(
                "Distinct right answers per group",
                "By what counts as the same. A third below its best: an alert.",
                (of_batch("coordinator_distinct_correct"), "{{run}} distinct"),
                (
                    of_batch("coordinator_distinct_answers", "equivalence"),
                    "{{run}} {{equivalence}}",
                ),
                ("asyncds:distinct_correct:avg15m{@}", "{{run}} 15 min"),
            ),
            graph(
                "Sameness",
                "Among the right ones of a group. Rising for long: the policy collapses.",
                (of_batch("coordinator_self_overlap"), "{{run}} self-overlap"),
                (of_batch("coordinator_top_share"), "{{run}} top share"),
                ("asyncds:self_overlap:avg15m{@}", "{{run}} self-overlap, 15 min"),
                unit="percentunit",
                top=1,
            ),
            graph(
                "Entropy",
                "Nats per token. Falling on right answers alone: they are being sharpened.",
                (of_batch("learner_entropy"), "{{run}} all"),
                (of_batch("learner_entropy_by_class", "class"), "{{run}} {{class}}"),
            ),
        ),
    ),
    Row(
        "Objective",
        (
            graph(
                "Loss",
                "Of the last batch. Its level says little: the advantages are relative.",
                (of_batch("learner_loss"), "{{run}}"),
            ),
            graph(
                "Gradient norm",
                "Before clipping. Spikes are clipped; rising for long: the policy is unstable.",
                (of_batch("learner_grad_norm"), "{{run}}"),
            ),
            graph(
                "Learning rate",
                "Of the last batch.",
                (of_batch("learner_lr"), "{{run}}"),
                unit="sci",
            ),
            graph(
                "Differential smoothing",
                "Mean shift of the advantage. Zero where the advantage is not a DS one.",
                (of_batch("learner_ds_shift", "class"), "{{run}} {{class}}"),
            ),
            graph(
                "KL from the base model",
                "Nats per token. Zero where algorithm has no KL term.",
                (of_batch("learner_kl"), "{{run}}"),
            ),
            graph(
                "Mismatch",
                "KL of behaviour policy and learner, nats per token. Over the line for long, and "
                "three times what it was: an alert. docs/algorithms.md",
                (of_batch("learner_mismatch_kl"), "{{run}}"),
                ("asyncds:mismatch_kl:avg15m{@}", "{{run}} 15 min"),
                steps=DRIFT,
            ),
            graph(
                "Clipped, truncated, masked",
                "Shares of tokens, by the sign of their advantage. Large: much is sampled and "
                "little is learned from it.",
                by_sign("clip_fraction"),
                by_sign("truncated_fraction"),
                by_sign("masked_fraction"),
                unit="percentunit",
            ),
            graph(
                "Ratio of the loss",
                "Quantiles over tokens. 1: the policy has not moved.",
                (of_batch("learner_ratio", "quantile"), "{{run}} {{quantile}}"),
            ),
            graph(
                "Importance weight",
                "Learner to behaviour policy, quantiles over tokens. 1: they agree.",
                (of_batch("learner_importance_weight", "quantile"), "{{run}} {{quantile}}"),
            ),
        ),
    ),
)
