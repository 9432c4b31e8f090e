"""PKPO."""

from math import comb
from typing import Literal

from asyncds.algo.advantages.by_counts import ByCounts


class Pkpo(ByCounts):
    """Pass@k policy optimisation: rollouts count by how they help the best of k.

    arXiv 2505.15201: Σ_i A_i ∇log π(y_i) climbs pass@k. With ``ρ(n, c, k) = 1 − C(n−c, k)/C(n, k)``

    - baseline ``none``: ``k/n`` if correct, ``(k/n) ρ(n−1, c, k−1)`` otherwise. The sum over the
      group is an unbiased estimate of the gradient of pass@k.
    - ``leave_one_out``: each k-set counts for i by how much i improves on the others in it,
      ``C(n−c, k−1)/C(n−1, k−1)`` if correct, 0 otherwise. The sum is n/k times an unbiased estimate
      of the same gradient, of less variance.
    """

    kind: Literal["pkpo"] = "pkpo"
    baseline: Literal["none", "leave_one_out"] = "leave_one_out"
    """Nothing subtracted, or what the rest of the k achieves (less variance)."""

    def advantages(self, n: int, c: int) -> tuple[float, float]:
        k = min(self.k, n)
        none_correct = comb(n - c, k - 1) / comb(n - 1, k - 1)
        if self.baseline == "leave_one_out":
            return none_correct, 0.0
        others_fail = comb(max(n - 1 - c, 0), k - 1) / comb(n - 1, k - 1)
        return k / n, k / n * (1 - others_fail)
