"""Does it learn?"""

from declared import section
from panels import ANY, DRIFT, Row, graph, now, stat, states
from queries import FIRING, last

from asyncds.telemetry.metrics.declaration import Section


def over(end: str) -> str:
    """Whether the run ended so, 0 or 1."""
    return last("coordinator_over", match=f', end="{end}"')


NONE = f"0 * {last('coordinator_steps_total')}"
"""A zero for every run."""
FIFTEEN = "{{run}} 15 min"

ROWS = (
    now(
        stat(
            "Alerts that fire",
            "How many.",
            f"sum by (namespace, run) ({FIRING}) or {NONE}",
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
            "Over 15 minutes, or since the first one. Zero for half an hour is an alert.",
            "asyncds:batches:per_minute15m{@}",
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
                    f"max by (namespace, run, alertname) ({FIRING}) "
                    f'or on (namespace, run) label_replace({NONE}, "alertname", "none", "", "")',
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
            *section(Section.REWARD, more={"Reward": (("asyncds:reward:avg15m{@}", FIFTEEN),)}),
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
    Row("Tasks", section(Section.TASKS)),
    Row(
        "Evaluation on held-out problems",
        (
            *section(Section.HELD_OUT, dashed=("exist",)),
            graph(
                "Distinct correct answers by evaluation set",
                "Per problem of each set of held-out problems.",
                (
                    last("coordinator_set_distinct", "set", "equivalence", "temperature"),
                    "{{run}} {{set}}, {{equivalence}}, T {{temperature}}",
                ),
            ),
            graph(
                "Intervals of Pass@k by evaluation set",
                "Ends of the 95 % intervals: those of a small set are wide.",
                (
                    last("coordinator_set_pass_at_k_bound", "set", "k", "temperature", "bound"),
                    "{{run}} {{set}} Pass@{{k}} {{bound}}, T {{temperature}}",
                ),
                unit="percentunit",
            ),
            graph(
                "Held-out problems",
                "With samples, and without: too long, or failed. Those count in no other number.",
                (
                    last("coordinator_evaluation_problems", "temperature"),
                    "{{run}} T {{temperature}}",
                ),
                (
                    last("coordinator_evaluation_failed_problems", "temperature"),
                    "{{run}} without samples, T {{temperature}}",
                ),
                (
                    last("coordinator_set_problems", "set", "temperature"),
                    "{{run}} {{set}}, T {{temperature}}",
                ),
                (
                    last("coordinator_set_failed_problems", "set", "temperature"),
                    "{{run}} {{set}} without samples, T {{temperature}}",
                ),
            ),
        ),
    ),
    Row(
        "Diversity and entropy of training batches",
        section(
            Section.DIVERSITY,
            more={
                "Distinct correct answers": (("asyncds:distinct_correct:avg15m{@}", FIFTEEN),),
                "Sameness": (("asyncds:self_overlap:avg15m{@}", "{{run}} self-overlap, 15 min"),),
            },
        ),
    ),
    Row(
        "Objective",
        section(
            Section.OBJECTIVE,
            more={"Mismatch": (("asyncds:mismatch_kl:avg15m{@}", FIFTEEN),)},
            steps={"Mismatch": DRIFT},
        ),
    ),
)
