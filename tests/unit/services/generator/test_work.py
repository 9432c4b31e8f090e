"""How a generator packs the answers of a group."""

from asyncds.tasks.registry import make_task
from services.generator.work import _by_equivalence


def test_answers_go_out_by_equivalence_with_the_primary_one_first() -> None:
    task = make_task("countdown", n_eval=4, equivalence="associative")
    packed = _by_equivalence([("1 + 2", "(1+2)", "(1+2)"), ()], task)
    assert list(packed) == ["associative", "written", "commutative"]
    assert packed["written"] == ["1 + 2", ""]
    assert packed["associative"] == ["(1+2)", ""]
