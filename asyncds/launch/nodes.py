"""The machines of a run, and which of its processes goes to which machine and GPU."""

from collections.abc import Sequence
from dataclasses import dataclass


class PlacementError(Exception):
    """A run's processes don't fit on the machines it was given; the message says what would."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine of a run.

    address: by which the others reach it. devices: its GPUs, as in CUDA_VISIBLE_DEVICES; empty
    where processes compute on the CPU.
    """

    name: str
    address: str
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a process is: a machine and those of its GPUs that are for this process alone."""

    node: Node
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Where everything of a run is.

    learner: a place per machine, which all have equally many ranks; the first has rank 0.
    generators: a place per engine.
    """

    learner: tuple[Place, ...]
    generators: tuple[Place, ...]


def spread(nodes: Sequence[Node], *, ranks: int, replicas: int, per_engine: int) -> Spread:
    """Give every learner rank a GPU and every engine ``per_engine`` GPUs of one machine.

    The learner takes GPUs of the first machine, or whole machines from the first on; engines take
    what is left, in order. On machines without GPUs all ranks are on the first, and engines take
    turns on the others, or share the first where it is alone. ranks: 0 where nothing is trained.
    Raises PlacementError.

        2 machines of 4 GPUs, 2 ranks, 3 engines of 2:  a(0, 1) and a(2, 3), b(0, 1), b(2, 3)
        3 machines of 4 GPUs, 8 ranks, 2 engines of 2:  a, b and c(0, 1), c(2, 3)
    """
    if not any(node.devices for node in nodes):
        others = nodes[1:] or nodes
        return Spread(
            learner=(Place(node=nodes[0]),) if ranks else (),
            generators=tuple(Place(node=others[i % len(others)]) for i in range(replicas)),
        )
    learner = _learner(nodes, ranks)
    taken = {place.node.name: len(place.devices) for place in learner}
    engines = [
        Place(node=node, devices=node.devices[first : first + per_engine])
        for node in nodes
        for first in range(taken.get(node.name, 0), len(node.devices) - per_engine + 1, per_engine)
    ]
    if len(engines) < replicas:
        raise PlacementError(
            f"{len(nodes)} machines with {sum(len(node.devices) for node in nodes)} GPUs have room "
            f"for {len(engines)} generators of {per_engine} GPUs, each on one machine, beside "
            f"{ranks} learner ranks, and generator.replicas is {replicas}: lower it, or give the "
            "run more machines"
        )
    return Spread(learner=learner, generators=tuple(engines[:replicas]))


def _learner(nodes: Sequence[Node], ranks: int) -> tuple[Place, ...]:
    """The learner's places: part of the first machine, or the first machines whole."""
    if ranks == 0:
        return ()
    first = nodes[0]
    if ranks <= len(first.devices):
        return (Place(node=first, devices=first.devices[:ranks]),)
    places: list[Place] = []
    for node in nodes:
        if len(node.devices) != len(first.devices) or len(places) * len(first.devices) == ranks:
            break
        places.append(Place(node=node, devices=node.devices))
    if len(places) * len(first.devices) != ranks:
        raise PlacementError(
            f"learner.ranks {ranks} is more than the {len(first.devices)} GPUs of {first.name} and "
            f"not the number of GPUs of several whole machines of that size (there are "
            f"{len(places)}): set it to a multiple of {len(first.devices)} that is there"
        )
    return tuple(places)
