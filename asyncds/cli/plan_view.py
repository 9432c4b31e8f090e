"""A plan for a terminal: the verdict first, then memory, time and disks, then what was assumed."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from asyncds.plan import throughput
from asyncds.plan.advice import Settings
from asyncds.plan.gpus import GIB
from asyncds.plan.parts import Part, total
from asyncds.plan.plan import USABLE, Plan, gib
from asyncds.plan.sync import LINK_SHARE
from asyncds.telemetry.numbers import duration, percent

_FITS, _DOES_NOT = Text("FITS", style="bold green"), Text("DOES NOT FIT", style="bold red")


def page(plan: Plan, advice: Settings | None, said: str = "") -> RenderableType:
    """The whole plan. advice: settings that would make it fit. said: of the model's sizes."""
    blocks: list[RenderableType] = [_verdict(plan, advice)]
    if plan.learner:
        blocks.append(_learner(plan))
    blocks.append(_generator(plan))
    blocks.append(_facts(plan))
    blocks.append(Text("\n".join(["Assumed", *_assumptions(plan, said)]), style="dim"))
    return Group(*(Padding(block, (0, 0, 1, 0)) for block in blocks))


def overview(
    plans: Sequence[Plan], advised: Sequence[Settings | None], said: str = ""
) -> RenderableType:
    """A line for each GPU: whether the run fits, and what would make it fit."""
    first = plans[0]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("GPU", "verdict"):
        table.add_column(name, no_wrap=True)
    table.add_column("a rank needs", justify="right", no_wrap=True)
    table.add_column("of", justify="right", no_wrap=True)
    table.add_column("it would fit with", overflow="fold")
    for plan, advice in zip(plans, advised, strict=True):
        table.add_row(
            plan.site.learner.name,
            _FITS if plan.fits else _DOES_NOT,
            gib(total(plan.learner)),
            gib(USABLE * plan.site.learner.memory),
            _settings(advice) if plan.memory else "",
        )
    head = Text(f"{_model(first)}, {_processes(first)}\n")
    more = Text("\n`--gpu NAME` shows all of one" + (f"; {said}" if said else ""), style="dim")
    return Group(head, table, more)


def _verdict(plan: Plan, advice: Settings | None) -> RenderableType:
    here = "this machine's memory" if plan.site.learner.shared else _where(plan)
    lines = [
        Text.assemble(_FITS if plan.fits else _DOES_NOT, f"  {_processes(plan)} on {here}"),
        Text(_model(plan)),
    ]
    lines += [Text(f"• {problem}", style="red") for problem in plan.problems]
    if plan.memory:
        lines.append(Text(f"→ it would fit with {_settings(advice)}", style="bold"))
    lines += [Text(f"• {note}", style="yellow") for note in plan.notes]
    return Group(*lines)


def _settings(advice: Settings | None) -> str:
    if advice is None:
        return "none of the settings that were tried"
    return " ".join(f"{key}={str(value).lower()}".replace(" ", "") for key, value in advice.items())


def _model(plan: Plan) -> str:
    shape = plan.shape
    used = shape.parameters_per_token
    active = f", {used / 1e9:.3g} B of them for a token" if shape.experts else ""
    name = plan.config.model.rstrip("/").split("/")[-1]
    size = f"{shape.parameters / 1e9:.3g} B" if shape.parameters >= 1e8 else f"{shape.parameters:,}"
    return f"{name}: {size} parameters ({shape.family}){active}, {plan.config.dtype}"


def _processes(plan: Plan) -> str:
    generator, parts = plan.config.generator, []
    if ranks := plan.config.learner_ranks:
        stage = plan.config.learner.zero_stage
        parts.append(f"{ranks} learner rank{'s' * (ranks > 1)} (ZeRO {stage})")
    gpus = generator.tensor_parallel * generator.pipeline_parallel
    each = f" of {gpus} GPUs" if gpus > 1 else ""
    parts.append(f"{generator.replicas} generator{'s' * (generator.replicas > 1)}{each}")
    return ", ".join(parts)


def _where(plan: Plan) -> str:
    learner, generator = plan.site.learner, plan.site.generator
    return learner.name if learner == generator else f"{learner.name} and {generator.name}"


def _table(title: str, parts: Sequence[Part], needs: str) -> RenderableType:
    table = Table(
        box=None, padding=(0, 2, 0, 0), title=title, title_justify="left", title_style="bold",
        show_header=False,
    )  # fmt: skip
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    for part in parts:
        table.add_row(part.name, gib(part.nbytes), part.why)
    table.add_row(Text("together", style="bold"), Text(gib(total(parts)), style="bold"), needs)
    return table


def _learner(plan: Plan) -> RenderableType:
    device = plan.site.learner
    of = f"of {gib(device.memory)}"
    if not device.shared:
        of = f"of {gib(USABLE * device.memory)}, {USABLE:.0%} of {gib(device.memory)}"
    return _table("A learner rank (rank 0, at its fullest)", plan.learner, of)


def _generator(plan: Plan) -> RenderableType:
    generator, load = plan.generator, plan.load
    room = (
        f"the cache holds {generator.whole:,.0f} sequences of {load.longest:,} tokens, or "
        f"{generator.usual:,.0f} usual ones"
    )
    workers = plan.config.generator.tensor_parallel * plan.config.generator.pipeline_parallel
    title = "A generator" if workers == 1 else f"Each of a generator's {workers} GPUs"
    return _table(title, generator.parts, room)


def _facts(plan: Plan) -> RenderableType:
    table = Table(
        box=None, padding=(0, 2, 0, 0), title="Time and disks", title_justify="left",
        title_style="bold", show_header=False,
    )  # fmt: skip
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(plan):
        table.add_row(name, value)
    return table


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    if plan.pace is not None:
        yield from _pace(plan)
    sync, config = plan.sync, plan.config
    if config.trains:
        way = "between GPUs of one machine" if sync.local else "over the network"
        seconds = ""
        if not plan.site.learner.shared:
            seconds = (
                f" in {_seconds(sync.seconds)} {way}; then an engine pauses {_seconds(sync.pause)}"
            )
        yield "weight sync", f"{gib(sync.nbytes)}{seconds}"
        if not plan.site.learner.shared:
            yield (
                "main memory",
                f"a version, {gib(sync.nbytes)}, on the learner's first machine, and one for every "
                "GPU of a generator",
            )
        disk = plan.disk
        yield (
            "checkpoints",
            f"{gib(disk.checkpoint)} each, {disk.kept} at once: {gib(disk.kept * disk.checkpoint)}",
        )
        limit = config.coordinator.journal_gb
        steps = limit * GIB / disk.journal_step
        yield (
            "journal",
            f"{gib(disk.journal_step)} a step: the last {steps:,.0f} steps in {limit:g} GiB"
            if steps < config.steps
            else f"{gib(config.steps * disk.journal_step)} in all, of {limit:g} GiB",
        )


def _pace(plan: Plan) -> Iterator[tuple[str, str]]:
    pace = plan.pace
    assert pace is not None
    replicas = plan.config.generator.replicas
    yield "learner", f"{pace.learner:,.0f} tokens/s on {plan.config.learner.ranks} ranks"
    decoding = pace.decoding
    yield (
        "a generator",
        f"{decoding.tokens:,.0f} tokens/s, {decoding.sequences:,} sequences at once; "
        f"bound by {decoding.bound}",
    )
    if plan.config.rollout.max_lag == 0:
        yield (
            "in turns",
            f"max_lag 0: the learner waits {percent(pace.learner_idle)} of the time, generators "
            f"{percent(pace.generators_idle)}",
        )
    else:
        waits = (
            f"the learner waits {percent(pace.learner_idle)} of the time"
            if pace.learner_idle > pace.generators_idle
            else f"generators wait {percent(pace.generators_idle)} of the time"
        )
        yield (
            "neither waits at",
            f"{pace.balance:.2g} generators for these ranks; with {replicas}, {waits}",
        )
    yield (
        "a step",
        f"{_seconds(pace.step_seconds)}; {plan.config.steps:,} steps in "
        f"{duration(plan.config.steps * pace.step_seconds)}, without evaluations",
    )


def _seconds(seconds: float) -> str:
    return duration(seconds) if seconds >= 100 else f"{seconds:.2g} s"


def _assumptions(plan: Plan, said: str) -> Iterator[str]:
    load = plan.load
    yield (
        f"• lengths: a prompt has {load.prompt:,} tokens, a completion {load.completion:,} "
        "(half of the longest, unless --prompt-tokens and --completion-tokens say better)"
    )
    if plan.pace is not None:
        yield (
            f"• of what the GPU's maker promises: {throughput.TRAINING_SHARE:.0%} of arithmetic in "
            f"training, {throughput.PREFILL_SHARE:.0%} in generation, "
            f"{throughput.BANDWIDTH_SHARE:.0%} of memory's bandwidth, {LINK_SHARE:.0%} of links"
        )
        yield "• times are orders of magnitude; memory is within what docs/plan.md says"
    if said:
        yield f"• {said}"
