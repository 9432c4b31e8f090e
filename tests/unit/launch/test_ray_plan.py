"""What a run asks Ray for: every rank and engine has its place, or a sentence says what lacks."""

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from asyncds.config.load import load_config
from asyncds.config.schema import RunConfig
from asyncds.launch.ray_plan import (
    Machine,
    Seat,
    rank_environments,
    resources,
    shown,
    without_room,
)
from tests.support.paths import ROOT


def config(*settings: str) -> RunConfig:
    return load_config(ROOT / "configs" / "quickstart.yaml", list(settings))


def machines(*gpus: int, cpus: int = 8) -> list[Machine]:
    return [Machine(name=f"m{i}", resources={"CPU": cpus, "GPU": n}) for i, n in enumerate(gpus)]


def test_what_is_reserved_follows_from_the_configuration() -> None:
    assert resources(config("learner.cpu_threads=2"), gpus=False) == ({"CPU": 2}, {"CPU": 1})
    run = config("generator.tensor_parallel=4", "ray.rank={CPU: 8, H100: 1}", "ray.generator.CPU=6")
    assert resources(run, gpus=True) == (
        {"CPU": 8, "H100": 1, "GPU": 1},
        {"CPU": 6, "GPU": 4},
    )


def test_examples_of_room() -> None:
    four, two, one = ({"GPU": n} for n in (4, 2, 1))
    assert without_room([("a", one), ("b", four), ("c", two)], machines(4, 4)) is None
    assert without_room([("a", two), ("b", four), ("c", four)], machines(4, 4)) == ("a", two)
    assert without_room([("a", {"GPU": 3}), ("b", {"GPU": 3})], machines(4, 2)) is not None
    assert without_room([("a", {"CPU": 9})], machines(0)) == ("a", {"CPU": 9})
    assert without_room([("a", {"H100": 1, "CPU": 1})], machines(8)) is not None
    assert without_room([], []) is None
    assert shown({"CPU": 2.5, "GPU": 8}) == "GPU 8, CPU 2.5"


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
    st.lists(st.sampled_from([1, 2, 4]), max_size=5),
)
def test_it_fits_if_and_only_if_there_is_a_way(gpus: list[int], engines: list[int]) -> None:
    """Powers of two; compared with every way there is."""
    wanted = [(f"e{i}", {"GPU": float(n)}) for i, n in enumerate(engines)]
    ways = itertools.product(range(len(gpus)), repeat=len(engines))
    possible = any(
        all(
            sum(n for n, at in zip(engines, way, strict=True) if at == machine) <= gpus[machine]
            for machine in range(len(gpus))
        )
        for way in ways
    )
    assert (without_room(wanted, machines(*gpus)) is None) == possible


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=9), st.booleans())
def test_ranks_are_as_torchrun_would_count_them(nodes: list[str], cuda: bool) -> None:
    counted: Counter[str] = Counter()
    seats = []
    for i, node in enumerate(nodes):
        gpus = [str(7 - counted[node])] if cuda else []
        counted[node] += 1
        seats.append(Seat(node=node, address=f"10.0.0.{node}", port=9000 + i, gpus=gpus))
    told = rank_environments(seats)
    assert sorted(int(env["RANK"]) for env in told) == list(range(len(nodes)))
    assert told[0]["RANK"] == "0"
    assert {(e["MASTER_ADDR"], e["MASTER_PORT"]) for e in told} == {(seats[0].address, "9000")}
    assert {e["WORLD_SIZE"] for e in told} == {str(len(nodes))}
    for node, n in counted.items():
        here = [env for env, seat in zip(told, seats, strict=True) if seat.node == node]
        ranks = [int(env["RANK"]) for env in here]
        assert ranks == list(range(ranks[0], ranks[0] + n))
        assert [env["LOCAL_RANK"] for env in here] == [str(i) for i in range(n)]
        assert {env["LOCAL_WORLD_SIZE"] for env in here} == {str(n)}
        for env, seat in zip(told, seats, strict=True):
            if seat.node == node and cuda:
                devices = env["CUDA_VISIBLE_DEVICES"].split(",")
                assert len(devices) == n
                assert [devices[int(env["LOCAL_RANK"])]] == seat.gpus
            elif not cuda:
                assert "CUDA_VISIBLE_DEVICES" not in env


def test_a_single_rank_is_told_nothing() -> None:
    assert rank_environments([Seat(node="a", address="x", port=1, gpus=["3"])]) == [{}]
