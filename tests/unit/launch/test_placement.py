"""No GPU twice where there are enough; shared in turn where there are not."""

from hypothesis import given
from hypothesis import strategies as st

from asyncds.launch.placement import place


def test_examples() -> None:
    assert place("0123", ranks=2, replicas=2, per_engine=1) == ("0,1", ["2", "3"])
    assert place(["GPU-a", "GPU-b", "GPU-c"], ranks=1, replicas=1, per_engine=2) == (
        "GPU-a",
        ["GPU-b,GPU-c"],
    )
    assert place("0", ranks=1, replicas=1, per_engine=1) == ("0", ["0"])


@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 4), st.integers(1, 2))
def test_everybody_gets_what_it_needs(n: int, ranks: int, replicas: int, per_engine: int) -> None:
    devices = [str(i) for i in range(n)]
    learner, engines = place(devices, ranks=ranks, replicas=replicas, per_engine=per_engine)
    given_out = [d for value in (learner, *engines) for d in value.split(",")]
    assert len(given_out) == ranks + replicas * per_engine
    assert [len(e.split(",")) for e in engines] == [per_engine] * replicas
    times = [given_out.count(d) for d in devices]
    assert max(times) - min(times) <= 1
