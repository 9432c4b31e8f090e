"""GR-PKPO."""

from math import comb, sqrt
from typing import Literal

from asyncds.algo.advantages.by_counts import ByCounts


class GrPkpo(ByCounts):
    """Pass@k training: the advantage of GRPO averaged over all sets of k rollouts.

    arXiv 2508.10751, in closed form. All k-sets of the n rollouts are groups, rewarded by whether
    one in them is correct; a rollout's advantage is the mean standardised reward of the sets it is
    in. With N⁻ incorrect ones, ``R = 1 − C(N⁻, k)/C(n, k)`` and ``s = sqrt(R (1 − R))``:
    ``(1 − R)/s`` if correct, ``(1 − R − C(N⁻−1, k−1)/C(n−1, k−1))/s`` otherwise. Where no set
    fails, or every one does, the group has no advantage.
    """

    kind: Literal["gr_pkpo"] = "gr_pkpo"

    def advantages(self, n: int, c: int) -> tuple[float, float]:
        k, wrong = min(self.k, n), n - c
        failure = comb(wrong, k) / comb(n, k)
        if failure in (0, 1):
            return 0.0, 0.0
        s = sqrt((1 - failure) * failure)
        return failure / s, (failure - comb(wrong - 1, k - 1) / comb(n - 1, k - 1)) / s
