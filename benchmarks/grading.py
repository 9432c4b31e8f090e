"""The grader of the task math beside plain math-verify, on the table of tests/unit/tasks.

    python benchmarks/grading.py

prints, for each kind, how many right answers of the table each of them calls wrong (lost), and how
many wrong ones right (won). Kinds that need a scorer's limits are left out. Plain math-verify is
`verify(parse(…), parse(…))` as it comes, with a box around the right answer.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import yaml
from math_verify import parse, verify

from asyncds.tasks.math.verifier import score_boxed

TABLE = Path(__file__).parents[1] / "tests/unit/tasks/grading.yaml"


def ours(right: str, completion: str) -> bool:
    return score_boxed(completion, right).correct


def plain(right: str, completion: str) -> bool:
    return bool(verify(parse(rf"\boxed{{{right}}}"), parse(completion)))


def errors(
    grader: Callable[[str, str], bool], pairs: list[tuple[str, str, int]]
) -> tuple[int, int]:
    """(right answers called wrong, wrong ones called right)."""
    verdicts = [(bool(verdict), grader(right, answer)) for right, answer, verdict in pairs]
    return sum(a and not b for a, b in verdicts), sum(b and not a for a, b in verdicts)


def main() -> None:
    logging.disable(logging.CRITICAL)
    print("| kind | pairs | ours: lost, won | math-verify: lost, won |\n|---|---|---|---|")
    total = [0, 0, 0, 0, 0]
    for kind, entry in yaml.safe_load(TABLE.read_text()).items():
        if entry.get("limited"):
            continue
        boxed = not entry.get("completions")
        pairs = [
            (right, rf"\boxed{{{answer}}}" if boxed else answer, verdict)
            for right, answer, verdict in entry["pairs"]
        ]
        counts = [len(pairs), *errors(ours, pairs), *errors(plain, pairs)]
        print("| {} | {} | {}, {} | {}, {} |".format(kind, *counts))
        total = [a + b for a, b in zip(total, counts, strict=True)]
    print("| **all** | {} | {}, {} | {}, {} |".format(*total))


if __name__ == "__main__":
    main()
