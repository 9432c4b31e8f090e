"""How fast a run goes, and who waits for whom."""

from dataclasses import dataclass

from asyncds.config.schema import RunConfig
from asyncds.plan.gpus import Gpu
from asyncds.plan.load import Load
from asyncds.plan.shape import ModelShape
from asyncds.plan.sync import Sync
from asyncds.plan.throughput import Decoding, decoding, learner_rate


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Completion tokens a second of both sides, and what follows.

    learner: of all ranks while they train. decoding: of one generator. balance: generators at
    which neither side waits. step_seconds: of a training batch. learner_idle, generators_idle: the
    share of time that each side waits.
    """

    learner: float
    decoding: Decoding
    balance: float
    step_seconds: float
    learner_idle: float
    generators_idle: float


def pace(
    config: RunConfig,
    shape: ModelShape,
    load: Load,
    devices: tuple[Gpu, Gpu],
    sync: Sync,
    *,
    room: float,
) -> Pace:
    """The pace of a run.

    devices: of the learner and of the generators. room: usual sequences that a generator's KV cache
    holds.
    """
    trained = learner_rate(config, shape, load, devices[0])
    sampling = decoding(config, shape, load, devices[1], room=room)
    tokens = load.batch * load.completion
    train = tokens / trained
    sample = tokens / (sampling.tokens * config.generator.replicas)
    if config.rollout.max_lag == 0:
        step = train + sample + sync.seconds / config.weights.publish_every
    else:
        step = max(train, sample)
    return Pace(
        learner=trained,
        decoding=sampling,
        balance=trained / sampling.tokens,
        step_seconds=step,
        learner_idle=1 - train / step,
        generators_idle=1 - sample / step,
    )
