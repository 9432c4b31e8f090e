"""The budget of attempts: work that failed counts, generators that were lost do not.

A generator that leaves in good order, or is not trusted any more, costs its leases nothing. One
that dies may have been killed by a lease, so deaths count too, but not singly: every
DEATHS_PER_FAILURE-th in a row, with no failure between, that the same lease was held at. A lease
that kills every generator so ends after DEATHS_PER_FAILURE · max_attempts of them.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from asyncds.rollout.lifecycle import AttemptOutcome

DEATHS_PER_FAILURE = 3


@dataclass(kw_only=True)
class AttemptBudget:
    """A lease's attempts. failures: what counts. deaths: in a row, not counted yet."""

    failures: int = 0
    deaths: int = 0

    def record(self, outcome: AttemptOutcome) -> None:
        """Count an attempt that ended."""
        self.deaths += outcome is AttemptOutcome.DIED
        if outcome is AttemptOutcome.FAILED or self.deaths == DEATHS_PER_FAILURE:
            self.failures, self.deaths = self.failures + 1, 0


def attempt_budgets(attempts: Iterable[tuple[int, str]]) -> defaultdict[int, AttemptBudget]:
    """Budgets by lease, from (lease, outcome) in the order of the attempts."""
    found: defaultdict[int, AttemptBudget] = defaultdict(AttemptBudget)
    for lease, outcome in attempts:
        found[lease].record(AttemptOutcome(outcome))
    return found
