"""The coordinator's metrics of evaluations: of all held-out problems, and of each set of them."""

from functools import partial

from asyncds.telemetry.metrics import charts
from asyncds.telemetry.metrics.declaration import Chart, Metric, Section

_of_evaluation = partial(Metric, role="coordinator", record="evaluation")

EVALUATIONS: tuple[Metric, ...] = (
    _of_evaluation(
        name="pass_at_k",
        help="Pass@k of the newest evaluation",
        unit="fraction",
        labels={"k": (), "temperature": ()},
        key="pass@{k}",
        chart=charts.PASS_AT_K,
        curve="Pass@{k}, T {temperature}",
    ),
    _of_evaluation(
        name="pass_at_k_bound",
        help="Ends of the 95 % interval of Pass@k, newest evaluation",
        unit="fraction",
        labels={"k": (), "temperature": (), "bound": ()},
        key="pass@{k}/{bound}",
        chart=charts.PASS_AT_K_BOUND,
        curve="Pass@{k} {bound}, T {temperature}",
    ),
    _of_evaluation(
        name="set_pass_at_k",
        help="Pass@k of an evaluation set, newest evaluation",
        unit="fraction",
        labels={"set": (), "k": (), "temperature": ()},
        key="sets/{set}/pass@{k}",
        chart=charts.PASS_BY_SET,
        curve="{set} Pass@{k}, T {temperature}",
    ),
    _of_evaluation(
        name="set_pass_at_k_bound",
        help="Ends of the 95 % interval of Pass@k of an evaluation set, newest evaluation",
        unit="fraction",
        labels={"set": (), "k": (), "temperature": (), "bound": ()},
        key="sets/{set}/pass@{k}/{bound}",
    ),
    _of_evaluation(
        name="set_distinct",
        help="Distinct correct answers per problem of an evaluation set, newest evaluation",
        unit="answers",
        labels={"set": (), "equivalence": (), "temperature": ()},
        key="sets/{set}/distinct/{equivalence}",
    ),
    _of_evaluation(
        name="set_problems",
        help="Problems of an evaluation set that have samples, newest evaluation",
        unit="problems",
        labels={"set": (), "temperature": ()},
        key="sets/{set}/n_problems",
    ),
    _of_evaluation(
        name="set_failed_problems",
        help="Problems of an evaluation set that have none, and are left out of its numbers",
        unit="problems",
        labels={"set": (), "temperature": ()},
        key="sets/{set}/n_failed",
    ),
    _of_evaluation(
        name="evaluation_problems",
        help="Held-out problems that have samples, newest evaluation",
        unit="problems",
        labels={"temperature": ()},
        key="n_problems",
    ),
    _of_evaluation(
        name="evaluation_failed_problems",
        help="Held-out problems that have none (too long, or failed), and are left out of numbers",
        unit="problems",
        labels={"temperature": ()},
        key="n_failed",
    ),
    _of_evaluation(
        name="evaluation_distinct",
        help="Distinct correct answers per held-out problem, newest evaluation",
        unit="answers",
        labels={"equivalence": (), "temperature": ()},
        key="distinct/{equivalence}",
        chart=charts.HELD_OUT_DISTINCT,
        curve="{equivalence}, T {temperature}",
    ),
    _of_evaluation(
        name="evaluation_multiplicity",
        help="Distinct correct answers that exist per held-out problem",
        unit="answers",
        labels={"equivalence": ()},
        key="multiplicity/{equivalence}",
        chart=charts.HELD_OUT_DISTINCT,
        curve="{equivalence} exist",
    ),
    _of_evaluation(
        name="evaluation_top_share",
        help="Right samples with their problem's most frequent answer",
        unit="fraction",
        labels={"temperature": ()},
        key="top_share",
        chart=charts.HELD_OUT_SAMENESS,
        curve="top share, T {temperature}",
    ),
    _of_evaluation(
        name="evaluation_self_overlap",
        help="Pairs of right samples of a problem with the same answer",
        unit="fraction",
        labels={"temperature": ()},
        key="self_overlap",
        chart=charts.HELD_OUT_SAMENESS,
        curve="self-overlap, T {temperature}",
    ),
    _of_evaluation(
        name="evaluation_normalised_variance",
        help="Variance of the policy over right answers, by its correct mass squared",
        unit="ratio",
        labels={"temperature": ()},
        key="normalised_variance",
        chart=Chart(
            title="Normalised variance",
            note="Of the policy over the right answers to held-out problems, by its correct mass "
            "squared. 0: all right answers are alike likely.",
            section=Section.HELD_OUT,
        ),
        curve="variance, T {temperature}",
    ),
    _of_evaluation(
        name="evaluation_entropy",
        help="Entropy of the samples",
        unit="nats per token",
        labels={"temperature": ()},
        key="entropy",
        chart=Chart(
            title="Entropy of samples, held out",
            note="Nats per token, of the temperature that is sampled with.",
            section=Section.HELD_OUT,
        ),
        curve="entropy, T {temperature}",
    ),
    _of_evaluation(
        name="evaluation_version",
        help="Weight version of the newest evaluation",
        unit="version",
        key="version",
    ),
)
