"""The leases of an evaluation round."""

from collections.abc import Callable

from asyncds.config.schema import RunConfig
from asyncds.rollout.journal import Journal
from services.coordinator.evaluation import Due, EvaluationRound


def make_round(
    *,
    config: RunConfig,
    journal: Journal,
    n_problems: int,
    due: Due,
    version: int,
    new: Callable[[int, int, float], int],
) -> EvaluationRound:
    """An evaluation at each temperature: one lease per held-out problem.

    new: makes the lease of (evaluation, row, temperature), and returns its id.
    """
    temperatures, leases = {}, {}
    for temperature in config.eval.temperatures:
        evaluation = journal.add_evaluation(version=version, step=due.step, n_samples=due.n_samples)
        temperatures[evaluation] = temperature
        for row in range(n_problems):
            leases[new(evaluation, row, temperature)] = (evaluation, row)
    return EvaluationRound(
        version=version,
        step=due.step,
        n_samples=due.n_samples,
        temperatures=temperatures,
        leases=leases,
    )
