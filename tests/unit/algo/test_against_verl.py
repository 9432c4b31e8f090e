"""The objective against verl's own functions: the same numbers from code we didn't write.

verl doesn't install beside; its values are in verl.json, and how they came there is said in
benchmarks/verl_values.py. What verl defines otherwise is said in docs/algorithms.md.
"""

import pytest

from benchmarks.against_verl import ADVANTAGES, LOSSES, THEIRS, differences
from tests.support.paths import ROOT


def test_every_case_of_verls_is_compared() -> None:
    assert set(THEIRS["cases"]) == {*LOSSES, *ADVANTAGES, "k1", "k2", "k3"}


@pytest.mark.parametrize("name", THEIRS["cases"])
def test_ours_is_verls(name: str) -> None:
    assert differences()[name] < 1e-6


def test_the_page_names_every_case() -> None:
    text = (ROOT / "docs/algorithms.md").read_text()
    assert [name for name in THEIRS["cases"] if f"| {name} |" not in text] == []
