"""Bytes and seconds that a learner gives to publishing a version of the weights."""

from dataclasses import dataclass

from asyncds.config.schema import RunConfig
from asyncds.plan.gpus import Gpu
from asyncds.plan.shape import ModelShape
from asyncds.plan.staging import ITEMSIZE, LANES, version_bytes
from asyncds.plan.sync import LINK_SHARE

RANKS_PER_MACHINE = 8
"""GPUs of a machine; the first so many ranks share what is staged."""
HOST_LINK = 25e9
"""Bytes/s that a GPU copies to pinned main memory: PCI Express 4 ×16, four fifths of it."""


@dataclass(frozen=True, kw_only=True)
class Publishing:
    """Bytes and seconds that a learner gives to publishing a version.

    share: what one rank copies to main memory. gathered: what every rank gathers for it. sending,
    gathering: most of it that is on a GPU at a time, on rank 0 and on each rank. host: main memory
    of rank 0's machine. stopped: how long training stops.
    """

    share: float
    gathered: float
    sending: float
    gathering: float
    host: float
    stopped: float


def publishing(config: RunConfig, shape: ModelShape, device: Gpu) -> Publishing:
    """Sizes and times of publishing, for the learner of a run on such GPUs.

    Ranks on rank 0's machine copy an equal part each. Nothing is gathered unless ZeRO-3 has left
    partitions on other machines.
    """
    itemsize = ITEMSIZE[config.dtype]
    size = version_bytes(config, shape)
    ranks, bucket = config.learner.ranks, config.weights.bucket_mb << 20
    gathers = config.learner.zero_stage == 3 and ranks > RANKS_PER_MACHINE
    share = size / min(ranks, RANKS_PER_MACHINE)
    gathered = size if gathers else 0.0
    link = device.link * LINK_SHARE
    return Publishing(
        share=share,
        gathered=gathered,
        sending=LANES * min(bucket, size) if config.weights.transport != "gloo" else 0.0,
        gathering=max(bucket, itemsize * shape.largest_tensor) if gathers else 0.0,
        host=size,
        stopped=share / HOST_LINK + (gathered / link if gathered else 0.0),
    )
