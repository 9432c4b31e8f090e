"""The coverage of Pass@k's intervals: the table of docs/evaluation.md.

python benchmarks/coverage.py [REPEATS]

How often an interval holds the mean over all problems, in a seeded simulation around the code that
evaluations use. Problems have 64 samples each; the chance of a problem to be solved by one of them
is drawn anew from each distribution, and the truth is the mean of 400,000 such problems.
"""

import sys
from collections.abc import Callable

import numpy as np

from asyncds.algo.passk import mean_pass_at_k

SAMPLES = 64
PROBLEMS = (30, 128)
Draw = Callable[[np.random.Generator, int], np.ndarray]

HARD: dict[str, tuple[Draw, int]] = {
    "rare, spread: Beta(0.05, 5)": (lambda rng, m: rng.beta(0.05, 5, m), 1),
    "rare, alike: Beta(0.3, 30)": (lambda rng, m: rng.beta(0.3, 30, m), 1),
    "one in twenty has ½, the others 0": (
        lambda rng, m: np.where(rng.random(m) < 0.95, 0.0, 0.5),
        1,
    ),
    "one in fifty has 0.9, the others 0": (
        lambda rng, m: np.where(rng.random(m) < 0.98, 0.0, 0.9),
        1,
    ),
    "all 0.005": (lambda rng, m: np.full(m, 0.005), 1),
    "all 0.0005": (lambda rng, m: np.full(m, 0.0005), 1),
    "ceiling: Beta(1, 4)": (lambda rng, m: rng.beta(1, 4, m), 64),
    "ceiling: Beta(2, 5)": (lambda rng, m: rng.beta(2, 5, m), 64),
    "three in a hundred have 0, the others 0.2": (
        lambda rng, m: np.where(rng.random(m) < 0.97, 0.2, 0.0),
        64,
    ),
    "one in a hundred has 0.001, the others 0.1": (
        lambda rng, m: np.where(rng.random(m) < 0.99, 0.1, 0.001),
        64,
    ),
    "all 0.05": (lambda rng, m: np.full(m, 0.05), 64),
    "middle: Beta(½, 1), at 1": (lambda rng, m: rng.beta(0.5, 1, m), 1),
    "middle: Beta(½, 1), at 64": (lambda rng, m: rng.beta(0.5, 1, m), 64),
}
"""Chances of problems, and the k at which their mean is near 0 or 1 (but for the last two)."""


def coverage(name: str, *, problems: int, repeats: int) -> tuple[float, float, float, float]:
    """(Pass@k of all problems, share of intervals that hold it, mean width, least width)."""
    draw, k = HARD[name]
    rng = np.random.default_rng(0)
    truth = float(np.mean(1 - (1 - draw(rng, 400_000)) ** k))
    held, widths = 0, []
    for seed in range(repeats):
        correct = rng.binomial(SAMPLES, draw(rng, problems))
        found = mean_pass_at_k([SAMPLES] * problems, correct, [k], seed=seed)[k]
        held += found.low <= truth <= found.high
        widths.append(found.high - found.low)
    return truth, held / repeats, float(np.mean(widths)), min(widths)


def table(repeats: int) -> str:
    """The rows in Markdown: coverage, and the mean and least width in points."""
    head = ["chance of a problem", "mean, in percent", *(f"{n} problems" for n in PROBLEMS)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, (_, k) in HARD.items():
        found = [coverage(name, problems=n, repeats=repeats) for n in PROBLEMS]
        mean = f"{100 * found[0][0]:.2g}" if found[0][0] < 0.01 else f"{100 * found[0][0]:.1f}"
        cells = [
            f"{100 * share:.1f} % ({100 * width:.1f}, {100 * least:.1f})"
            for _, share, width, least in found
        ]
        lines.append(f"| {' | '.join([name.partition(', at')[0], f'Pass@{k} {mean}', *cells])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
