"""Placement: which GPU belongs to which process of a run on one machine."""

from collections.abc import Sequence


def place(
    devices: Sequence[str], *, ranks: int, replicas: int, per_engine: int
) -> tuple[str, list[str]]:
    """Values of CUDA_VISIBLE_DEVICES: the learner's, and each generator's.

    devices: entries of CUDA_VISIBLE_DEVICES (numbers or ids), at least one. The learner's ranks
    take the first, generators the next ones; where there are too few they begin again at the
    first, which NCCL must be told to allow (preflight refuses it otherwise).

        4 devices, 2 ranks, 2 generators of 1:  "0,1" and ["2", "3"]
        1 device, 1 rank, 1 generator of 1:     "0" and ["0"]
    """
    order = [devices[i % len(devices)] for i in range(ranks + replicas * per_engine)]
    engines = [order[i : i + per_engine] for i in range(ranks, len(order), per_engine)]
    return ",".join(order[:ranks]), [",".join(engine) for engine in engines]
