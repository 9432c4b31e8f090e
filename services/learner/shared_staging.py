"""Staging that the ranks of one machine share: one region that they copy a version into."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch.distributed as dist

from asyncds.weights.buckets import Placement, TensorSpec
from asyncds.weights.region import Region
from asyncds.weights.staging import StagedWeights

MARK_BYTES = 16


def shared_staging(
    *,
    specs: Iterable[TensorSpec],
    bucket_bytes: int,
    rank: int,
    ranks: int,
    pin: bool,
    adapter: Mapping[str, Any] | None = None,
) -> StagedWeights:
    """The staging of this rank; every rank calls it. pin: for copies from a GPU.

    Rank 0 makes the region. Who can open it, because it runs on the same machine, has a part of
    every tensor to copy; who can't has none.
    """
    specs = tuple(specs)
    nbytes = Placement.of(specs, bucket_bytes=bucket_bytes).nbytes
    region, sharers = _shared_region(nbytes, rank=rank, ranks=ranks)
    if pin and region is not None:
        region.pin()
    return StagedWeights(
        specs=specs,
        bucket_bytes=bucket_bytes,
        region=region,
        place=sharers.index(rank) if rank in sharers else None,
        places=len(sharers),
        adapter=adapter,
    )


def _shared_region(nbytes: int, *, rank: int, ranks: int) -> tuple[Region | None, list[int]]:
    """The region as this rank sees it, None where it can't; and the ranks that can."""
    region = Region(nbytes) if rank == 0 else None
    if ranks == 1:
        return region, [0]
    said: list[tuple[str, bytes] | None] = [None]
    if region is not None:
        # Another machine may have a file of that name and size.
        mark = os.urandom(MARK_BYTES)[:nbytes]
        region.flat[: len(mark)] = region.flat.new_tensor(list(mark))
        said = [(region.path, mark)]
    dist.broadcast_object_list(said, src=0)
    assert said[0] is not None
    if region is None:
        region = _opened(*said[0], nbytes=nbytes)
    answers: list[bool] = [False] * ranks
    dist.all_gather_object(answers, region is not None)
    if rank == 0 and region is not None:
        region.flat[:MARK_BYTES] = 0
    return region, [member for member, can in enumerate(answers) if can]


def _opened(path: str, mark: bytes, *, nbytes: int) -> Region | None:
    try:
        region = Region(nbytes, path=path)
    except OSError:
        return None
    return region if bytes(region.flat[: len(mark)].tolist()) == mark else None
