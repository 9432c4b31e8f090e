"""A weight sync: its bytes, its seconds, and those of them in which an engine stands still."""

from dataclasses import dataclass

from asyncds.config.operation import LOOPBACK
from asyncds.config.schema import RunConfig
from asyncds.plan.gpus import Gpu
from asyncds.plan.shape import ModelShape
from asyncds.plan.staging import version_bytes

LINK_SHARE = 0.7
"""Of a link's promised bandwidth, in a broadcast; it is the same to one receiver and to many."""


@dataclass(frozen=True, kw_only=True)
class Sync:
    """Bytes and seconds of a weight sync; the latter are 0 where it computes on a CPU.

    nbytes: sent to every generator. pause: seconds in which an engine loads what has arrived.
    local: whether it stays in one machine.
    """

    nbytes: float
    seconds: float
    pause: float
    local: bool


def weight_sync(
    config: RunConfig, shape: ModelShape, devices: tuple[Gpu, Gpu], *, network: float
) -> Sync:
    """The sync of a run: within a machine where weights.host is loopback, else over the network.

    A version goes from main memory to main memory, through one GPU at each end: the slowest of the
    ways there is what counts. devices: of the learner and of the generators. network: bytes/s.
    """
    learner, generator = devices
    local = config.weights.host in LOOPBACK
    nbytes = version_bytes(config, shape)
    if learner.shared or generator.shared:
        return Sync(nbytes=nbytes, seconds=0.0, pause=0.0, local=local)
    between = min(learner.link, generator.link) if local else network
    way = min(learner.host, between, generator.host) * LINK_SHARE
    workers = config.generator.tensor_parallel * config.generator.pipeline_parallel
    pause = nbytes / workers / (generator.host * LINK_SHARE)
    return Sync(nbytes=nbytes, seconds=nbytes / way, pause=pause, local=local)
