"""Every rank and engine has GPUs of its own on one machine, or a sentence says what is missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.launch.nodes import Node, Place, PlacementError, spread


def machines(*gpus: int) -> list[Node]:
    return [
        Node(name=name, address=f"10.0.0.{i}", devices=tuple(map(str, range(n))))
        for i, (name, n) in enumerate(zip("abcdef", gpus, strict=False))
    ]


def words(places: tuple[Place, ...]) -> list[str]:
    return [f"{place.node.name}({','.join(place.devices)})" for place in places]


def test_examples() -> None:
    found = spread(machines(4, 4), ranks=2, replicas=3, per_engine=2)
    assert words(found.learner) == ["a(0,1)"]
    assert words(found.generators) == ["a(2,3)", "b(0,1)", "b(2,3)"]
    found = spread(machines(4, 4, 4), ranks=8, replicas=2, per_engine=2)
    assert words(found.learner) == ["a(0,1,2,3)", "b(0,1,2,3)"]
    assert words(found.generators) == ["c(0,1)", "c(2,3)"]
    # What is left over on a machine is not joined with another's.
    found = spread(machines(4, 4), ranks=1, replicas=3, per_engine=2)
    assert words(found.generators) == ["a(1,2)", "b(0,1)", "b(2,3)"]


def test_without_gpus_engines_leave_the_learner_alone() -> None:
    found = spread(machines(0, 0, 0), ranks=2, replicas=3, per_engine=1)
    assert words(found.learner) == ["a()"]
    assert words(found.generators) == ["b()", "c()", "b()"]
    found = spread(machines(0), ranks=1, replicas=2, per_engine=1)
    assert words(found.generators) == ["a()", "a()"]


def test_an_evaluation_has_no_learner() -> None:
    found = spread(machines(2), ranks=0, replicas=2, per_engine=1)
    assert (found.learner, words(found.generators)) == ((), ["a(0)", "a(1)"])


@pytest.mark.parametrize(
    ("gpus", "ranks", "replicas", "per_engine", "said"),
    [
        ((4, 4), 2, 4, 2, "8 GPUs have room for 3 generators of 2 GPUs.*generator.replicas is 4"),
        ((4, 4), 6, 1, 1, "learner.ranks 6 is more than the 4 GPUs of a.*multiple of 4"),
        ((4, 4), 12, 0, 1, "learner.ranks 12 .*there are 2"),
        ((4, 2), 6, 0, 1, "learner.ranks 6 .*there are 1"),
        ((2, 2), 1, 1, 4, "room for 0 generators of 4 GPUs, each on one machine"),
    ],
)
def test_what_does_not_fit(
    gpus: tuple[int, ...], ranks: int, replicas: int, per_engine: int, said: str
) -> None:
    with pytest.raises(PlacementError, match=said):
        spread(machines(*gpus), ranks=ranks, replicas=replicas, per_engine=per_engine)


@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=6),
    st.integers(0, 24),
    st.integers(0, 12),
    st.integers(1, 4),
)
def test_no_gpu_twice(gpus: list[int], ranks: int, replicas: int, per_engine: int) -> None:
    nodes = machines(*gpus)
    try:
        found = spread(nodes, ranks=ranks, replicas=replicas, per_engine=per_engine)
    except PlacementError:
        if ranks <= gpus[0]:
            assert replicas > sum(n // per_engine for n in (gpus[0] - ranks, *gpus[1:]))
        else:
            alike = next((i for i, n in enumerate(gpus) if n != gpus[0]), len(gpus))
            used, rest = divmod(ranks, gpus[0])
            assert rest or used > alike or replicas > sum(n // per_engine for n in gpus[used:])
        return
    taken = [
        (place.node.name, device)
        for place in (*found.learner, *found.generators)
        for device in place.devices
    ]
    assert len(taken) == len(set(taken)) == ranks + replicas * per_engine
    assert {len(place.devices) for place in found.generators} <= {per_engine}
    assert len({len(place.devices) for place in found.learner}) <= 1
