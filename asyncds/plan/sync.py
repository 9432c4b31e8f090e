"""A weight sync: its bytes, and its seconds."""

from dataclasses import dataclass

from asyncds.config.operation import LOOPBACK
from asyncds.config.schema import RunConfig
from asyncds.plan.gpus import Gpu
from asyncds.plan.shape import ModelShape

LINK_SHARE = 0.7
"""Of a link's promised bandwidth, in a broadcast; it is the same to one receiver and to many."""


@dataclass(frozen=True, kw_only=True)
class Sync:
    """Bytes that a weight sync sends to every generator. local: whether it stays in one machine."""

    nbytes: float
    seconds: float
    local: bool


def weight_sync(config: RunConfig, shape: ModelShape, device: Gpu, *, network: float) -> Sync:
    """The sync of a run: within a machine where weights.host is loopback, else over the network.

    network: bytes/s.
    """
    local = config.weights.host in LOOPBACK
    nbytes = (4 if config.dtype == "float32" else 2) * shape.parameters
    link = device.link if local and device.link else network
    return Sync(nbytes=nbytes, seconds=nbytes / (link * LINK_SHARE), local=local)
