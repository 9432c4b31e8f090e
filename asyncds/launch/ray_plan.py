"""Requests of a run to a Ray cluster, and what its processes are told there."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from asyncds.config.schema import RunConfig

Resources = Mapping[str, float]
RANK0 = "{rank0}"
"""Stands in a process's arguments for the address of the machine that its rank 0 is on."""


class Step(Struct, frozen=True, kw_only=True):
    """A process on the cluster, or ranks of one that start and end together.

    resources: what each rank reserves, on one machine. arguments: of Python, for each rank.
    """

    name: str
    address: str
    arguments: list[str]
    resources: dict[str, float]
    ranks: int = 1
    environment: dict[str, str]
    runtime_env: dict[str, Any]


class Machine(Struct, frozen=True, kw_only=True):
    """A machine of the cluster, and all that Ray may give away of it, reserved or not.

    problem: why it can't take part in a run; "" if it can.
    """

    name: str
    resources: dict[str, float]
    problem: str = ""


class Cluster(Struct, frozen=True, kw_only=True):
    """The machines of a cluster. here: the address of the one that asks."""

    here: str
    machines: list[Machine]


class Seat(Struct, frozen=True, kw_only=True):
    """Where a rank was put: a node, its address, a free port of it, and the rank's GPUs there."""

    node: str
    address: str
    port: int
    gpus: list[str]


def resources(run: RunConfig, *, gpus: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Resources that a rank reserves, and those of a generator. gpus: whether there are any."""
    engine = run.generator.tensor_parallel * run.generator.pipeline_parallel
    rank = {"CPU": float(run.learner.cpu_threads)} | run.ray.rank
    generator = {"CPU": float(run.generator.cpu_threads or 1)} | run.ray.generator
    return (rank | {"GPU": 1.0}, generator | {"GPU": float(engine)}) if gpus else (rank, generator)


def without_room(
    wanted: Sequence[tuple[str, Resources]], machines: Sequence[Machine]
) -> tuple[str, Resources] | None:
    """The first of `wanted`, names and resources, that fits on no machine; None if all fit.

    The largest are put first, each where the least is left over.
    """
    free = [dict(machine.resources) for machine in machines]
    for name, needs in sorted(wanted, key=lambda one: _size(one[1]), reverse=True):
        fitting = [left for left in free if all(left.get(r, 0.0) >= n for r, n in needs.items())]
        if not fitting:
            return name, needs
        best = min(fitting, key=_size)
        for resource, n in needs.items():
            best[resource] = best.get(resource, 0.0) - n
    return None


def rank_environments(seats: Sequence[Seat]) -> list[dict[str, str]]:
    """Torchrun's variables for each seat, with the GPUs of its machine's ranks; seat 0 is rank 0.

    The ranks of a machine follow each other. A rank that is alone is told nothing: Ray has told it
    its GPU, and it needs no group.
    """
    if len(seats) == 1:
        return [{}]
    nodes = list(dict.fromkeys(seat.node for seat in seats))
    local = {node: [i for i, seat in enumerate(seats) if seat.node == node] for node in nodes}
    order = [i for node in nodes for i in local[node]]
    found = []
    for i, seat in enumerate(seats):
        mine = local[seat.node]
        gpus = [gpu for j in mine for gpu in seats[j].gpus]
        found.append(
            {
                "RANK": str(order.index(i)),
                "WORLD_SIZE": str(len(seats)),
                "LOCAL_RANK": str(mine.index(i)),
                "LOCAL_WORLD_SIZE": str(len(mine)),
                "MASTER_ADDR": seats[0].address,
                "MASTER_PORT": str(seats[0].port),
            }
            | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})
        )
    return found


def shown(amounts: Resources) -> str:
    """Words on resources: `GPU 8, CPU 2.5`."""
    return ", ".join(f"{name} {n:g}" for name, n in sorted(amounts.items(), reverse=True)) or "none"


def _size(amounts: Resources) -> tuple[float, float, float]:
    """A size to compare by: GPUs count most, then CPUs."""
    return amounts.get("GPU", 0.0), amounts.get("CPU", 0.0), sum(amounts.values())
