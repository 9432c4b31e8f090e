"""`asyncds plan`: what a run would need and reach, before anything is rented."""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from asyncds.cli.plan_view import overview, page
from asyncds.config.load import load_config
from asyncds.config.schema import RunConfig
from asyncds.launch.errors import UserError
from asyncds.launch.machine import gpus as gpus_here
from asyncds.launch.machine import memory_bytes
from asyncds.launch.manifests import read_manifests
from asyncds.launch.model_config import read_model_config
from asyncds.plan.advice import Settings, advise
from asyncds.plan.families import UnknownModelError, model_shape
from asyncds.plan.gpus import GIB, GPUS, Gpu, find_gpu, main_memory, recognise
from asyncds.plan.parts import Part, total
from asyncds.plan.plan import Plan, Site, make_plan
from asyncds.plan.shape import ModelShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wishes:
    """Wishes of the command line about GPUs, network, volumes and lengths; None: nothing."""

    gpus: Sequence[str] = ()
    generator_gpu: str | None = None
    memory: float | None = None
    tflops: float | None = None
    bandwidth: float | None = None
    link: float | None = None
    network: float = 200.0
    checkpoints: float | None = None
    journal: float | None = None
    prompt: int | None = None
    completion: int | None = None


def plan_command(file: Path, overrides: Sequence[str], wishes: Wishes, *, as_json: bool) -> int:
    """Print the plan, or for several GPUs a line each. Returns 0 if the run fits, else 1."""
    config, wishes = _read(file, overrides, wishes)
    fields, said = read_model_config(config.model)
    try:
        shape = model_shape(fields)
        devices = _devices(config, wishes)
        plans = [make_plan(config, shape, _site(device, wishes)) for device in devices]
    except (UnknownModelError, ValueError) as error:
        raise UserError(str(error)) from error
    advised = [_advice(plan, shape) if plan.memory else None for plan in plans]
    if as_json:
        answers = [as_plain(plan, advice) for plan, advice in zip(plans, advised, strict=True)]
        print(json.dumps(answers[0] if len(answers) == 1 else answers, indent=2))
    elif len(plans) == 1:
        Console().print(page(plans[0], advised[0], said))
    else:
        Console().print(overview(plans, advised, said))
    return 0 if any(plan.fits for plan in plans) else 1


def _read(file: Path, overrides: Sequence[str], wishes: Wishes) -> tuple[RunConfig, Wishes]:
    """The configuration of a file, or of manifests on standard input, which know volumes too."""
    if str(file) != "-":
        return load_config(file, overrides), wishes
    release = read_manifests(sys.stdin.read())
    with tempfile.TemporaryDirectory() as directory:
        written = Path(directory) / "config.yaml"
        written.write_text(release.config)
        config = load_config(written, [*release.overrides, *overrides])
    return config, dataclasses.replace(
        wishes,
        checkpoints=wishes.checkpoints or (release.checkpoints and release.checkpoints / GIB),
        journal=wishes.journal or (release.journal and release.journal / GIB),
    )


def as_plain(plan: Plan, advice: Settings | None) -> dict[str, Any]:
    """The plan as JSON has it: bytes, seconds and tokens a second."""

    def parts(of: list[Part]) -> dict[str, int]:
        return {part.name: round(part.nbytes) for part in of} | {"total": round(total(of))}

    return {
        "fits": plan.fits,
        "problems": plan.problems,
        "notes": plan.notes,
        "settings_that_fit": advice,
        "model": {"family": plan.shape.family, "parameters": plan.shape.parameters},
        "gpu": plan.site.learner.name,
        "generator_gpu": plan.site.generator.name,
        "learner_rank_bytes": parts(plan.learner) if plan.learner else None,
        "generator_gpu_bytes": parts(plan.generator.parts),
        "longest_sequences": round(plan.generator.whole, 1),
        "weight_sync": dataclasses.asdict(plan.sync),
        "pace": dataclasses.asdict(plan.pace) if plan.pace else None,
        "checkpoint_bytes": round(plan.disk.checkpoint),
        "checkpoints_kept": plan.disk.kept,
        "journal_bytes_per_step": round(plan.disk.journal_step),
    }


def _advice(plan: Plan, shape: ModelShape) -> Settings | None:
    def fits(config: RunConfig) -> bool:
        return not make_plan(config, shape, plan.site).memory

    return advise(plan.config, fits, longest=plan.load.longest, heads=shape.heads)


def _site(device: Gpu, wishes: Wishes) -> Site:
    return Site(
        learner=device,
        generator=find_gpu(wishes.generator_gpu) if wishes.generator_gpu else device,
        network=wishes.network * 1e9 / 8,
        checkpoints=wishes.checkpoints and wishes.checkpoints * GIB,
        journal=wishes.journal and wishes.journal * GIB,
        prompt=wishes.prompt,
        completion=wishes.completion,
    )


def _devices(config: RunConfig, wishes: Wishes) -> list[Gpu]:
    """The GPUs asked for; else this machine's; else, in float32 its memory, in bfloat16 all."""
    if wishes.memory is not None:
        return [_described(wishes)]
    if wishes.gpus:
        return [
            main_memory(memory_bytes()) if name == "cpu" else find_gpu(name) for name in wishes.gpus
        ]
    for gpu in gpus_here():
        known = recognise(gpu.name, round((gpu.memory_gb or 0) * GIB))
        if known is None or gpu.memory_gb is None:
            raise UserError(
                f"nothing is known of the GPU {gpu.name}: describe it by --gpu-memory and the "
                "options beside it, or name another with --gpu"
            )
        return [dataclasses.replace(known, memory=round(gpu.memory_gb * GIB))]
    return [main_memory(memory_bytes())] if config.dtype == "float32" else [*GPUS]


def _described(wishes: Wishes) -> Gpu:
    """A GPU by its numbers; what is not said is as of an A100."""
    usual = find_gpu("a100-80")

    def given(value: float | None, scale: float, otherwise: float) -> float:
        return otherwise if value is None else value * scale

    return Gpu(
        name=f"GPU of {wishes.memory:g} GiB",
        memory=round((wishes.memory or 0) * GIB),
        flops=given(wishes.tflops, 1e12, usual.flops),
        bandwidth=given(wishes.bandwidth, 1e9, usual.bandwidth),
        link=given(wishes.link, 1e9, usual.link),
        host=usual.host,
    )
