"""The plan of a run: memory, time and disks of every process, and whether it fits."""

from dataclasses import dataclass

from asyncds.config.schema import RunConfig
from asyncds.plan.adapters import trained_parameters
from asyncds.plan.disk import checkpoint_bytes, journal_bytes_per_step, kept_checkpoints
from asyncds.plan.generator import GeneratorMemory, generator_memory
from asyncds.plan.gpus import GIB, Gpu
from asyncds.plan.learner import learner_memory
from asyncds.plan.load import Load, load_of
from asyncds.plan.pace import Pace, pace
from asyncds.plan.parts import Part, total
from asyncds.plan.shape import ModelShape
from asyncds.plan.sync import Sync, weight_sync

USABLE = 0.95
"""Of a GPU's memory, for a learner rank: the rest lies unused between tensors."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """The place of a run, as far as it is known.

    The GPUs of learner and generators, the network between machines in bytes/s, the volumes of
    checkpoints and journal in bytes where they are known, and the usual lengths of prompts and
    completions likewise.
    """

    learner: Gpu
    generator: Gpu
    network: float = 25e9
    checkpoints: float | None = None
    journal: float | None = None
    prompt: int | None = None
    completion: int | None = None


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes of a checkpoint, how many there are at once, and of the rollouts of a step."""

    checkpoint: float
    kept: int
    journal_step: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The needs and the pace of a run.

    learner: the parts of rank 0's memory, [] without a learner. pace: None where it computes on a
    CPU. memory, volumes: what does not fit, a sentence each. notes: what fits and is worth a word.
    """

    config: RunConfig
    shape: ModelShape
    site: Site
    load: Load
    learner: list[Part]
    generator: GeneratorMemory
    sync: Sync
    pace: Pace | None
    disk: Disk
    memory: list[str]
    volumes: list[str]
    notes: list[str]

    @property
    def problems(self) -> list[str]:
        """All that does not fit."""
        return [*self.memory, *self.volumes]

    @property
    def fits(self) -> bool:
        """Whether the run could be."""
        return not self.problems


def make_plan(config: RunConfig, shape: ModelShape, site: Site) -> Plan:
    """Plan a run of a model of this shape at this site."""
    load = load_of(config, shape, prompt=site.prompt, completion=site.completion)
    learner = learner_memory(config, shape, load, site.learner) if config.trains else []
    generator = generator_memory(config, shape, load, site.generator)
    devices = (site.learner, site.generator)
    sync = weight_sync(config, shape, devices, network=site.network)
    disk = Disk(
        checkpoint=checkpoint_bytes(config, trained_parameters(config, shape)),
        kept=kept_checkpoints(config),
        journal_step=journal_bytes_per_step(config, load),
    )
    timed = config.trains and generator.starts and not site.learner.shared
    return Plan(
        config=config,
        shape=shape,
        site=site,
        load=load,
        learner=learner,
        generator=generator,
        sync=sync,
        pace=pace(config, shape, load, devices, sync, room=generator.usual) if timed else None,
        disk=disk,
        memory=_memory(config, site, learner, generator),
        volumes=_volumes(config, site, disk),
        notes=_room(load, generator),
    )


def _memory(
    config: RunConfig, site: Site, learner: list[Part], generator: GeneratorMemory
) -> list[str]:
    problems = []
    if site.learner.shared:
        ranks, replicas = config.learner_ranks, config.generator.replicas
        needed = ranks * total(learner) + replicas * total(generator.parts)
        if needed > site.learner.memory:
            problems.append(
                f"{ranks} learner ranks and {replicas} generators need {gib(needed)} of the "
                f"machine's {gib(site.learner.memory)}"
            )
    elif total(learner) > USABLE * site.learner.memory:
        problems.append(
            f"a learner rank needs {gib(total(learner))} of the "
            f"{gib(USABLE * site.learner.memory)} that can be used of {site.learner.name}"
        )
    if not generator.starts:
        room = f"{generator.whole * generator.smallest / GIB:.1f}"
        problems.append(
            f"a generator has {room} GiB left for its KV cache, and one sequence of the longest "
            f"kind takes {gib(generator.smallest)}: vLLM would not start"
        )
    return problems


def _volumes(config: RunConfig, site: Site, disk: Disk) -> list[str]:
    problems = []
    needed = disk.checkpoint * disk.kept
    if config.trains and site.checkpoints is not None and needed > site.checkpoints:
        problems.append(
            f"{disk.kept} checkpoints take {gib(needed)}, and their volume has "
            f"{gib(site.checkpoints)}: enlarge it, or lower checkpoint.keep_last"
        )
    journal = config.coordinator.journal_gb * GIB
    if site.journal is not None and journal > site.journal:
        problems.append(
            f"coordinator.journal_gb {config.coordinator.journal_gb:g} is more than the journal's "
            f"volume has, {gib(site.journal)}: lower it, or enlarge the volume"
        )
    return problems


def _room(load: Load, generator: GeneratorMemory) -> list[str]:
    if generator.starts and generator.usual < load.in_flight:
        return [
            f"the KV cache holds {generator.usual:.0f} usual sequences, and a generator has up to "
            f"{load.in_flight} at once: some wait"
        ]
    return []


def gib(nbytes: float) -> str:
    """Bytes as people read them: in GiB, or in MiB where that is less than one."""
    return f"{nbytes / GIB:,.1f} GiB" if nbytes >= GIB else f"{nbytes / (1 << 20):,.0f} MiB"
