"""The command `asyncds`. Exit codes: 0 done, 2 bad input or configuration, 1 failure.

Commands import what they need when they are called, so that help and completion are immediate.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from asyncds.cli import files, models
from asyncds.cli.going import attach, scale, stop
from asyncds.cli.reading import RunDirectory, inspect, report
from asyncds.cli.task_app import task_app
from asyncds.launch.errors import UserError
from asyncds.user_code import find_user_code

app = typer.Typer(
    help="Asynchronous reinforcement learning of language models with differential smoothing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Read, check and explain configurations.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(task_app, name="task")
for command in (attach, stop, scale, inspect, report):
    app.command()(command)

ConfigFile = Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file of a run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]…", help="Overrides such as learner.lr=1e-4."),
]


def main() -> None:
    """Entry point: what the person can mend is printed as sentences, with exit code 2."""
    find_user_code()
    try:
        app()
    except Exception as error:
        problems = _sentences(error)
        if problems is None:
            raise
        for problem in problems:
            print(problem, file=sys.stderr)
        raise SystemExit(2) from None


@app.command(no_args_is_help=True)
def run(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG [KEY=VALUE]…", help="A YAML file, and overrides."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with this run directory instead.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete an earlier run of that name first.")
    ] = False,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Go on with the run of that name, if there is one.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Write a timeline of all processes, for Perfetto.")
    ] = False,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="slurm|ray[=ADDRESS]",
            help="Spread the run over the machines of this Slurm job, or of a Ray cluster.",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave it to itself once everything is checked.")
    ] = False,
) -> None:
    """Train: the whole system on this machine, or on several, with live progress."""
    from asyncds.cli.run import run_command
    from asyncds.cli.sites import site

    if replace and go_on:
        raise UserError("--replace deletes the run that --continue goes on with: give one of them")
    values = arguments or []
    if resume is None and (not values or "=" in values[0]):
        raise UserError("give a configuration file, or --resume RUN")
    config = None if resume else Path(values[0])
    overrides = values if resume else values[1:]
    if trace:
        overrides = [*overrides, "telemetry.traces.timeline=true"]
    code = run_command(
        config=config,
        overrides=overrides,
        resume=resume,
        replace=replace,
        go_on=go_on,
        site=None if on is None else site(on),
        detach=detach,
    )
    raise typer.Exit(code)


@app.command(name="eval")
def evaluate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RUN|CONFIG",
            help="A model's directory or hub id, a run's directory, or a YAML file.",
        ),
    ],
    overrides: Overrides = None,
    tasks: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A YAML file of a run, whose task is asked; repeatable; or a directory of such. "
            "Default: the task of RUN or CONFIG.",
        ),
    ] = None,
    step: Annotated[
        int | None, typer.Option(min=1, help="Which checkpoint of RUN; default: the newest.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete earlier evaluations of that name first.")
    ] = False,
) -> None:
    """Evaluate a model, or a checkpoint of a run: Pass@k and diversity, no training.

    What was interrupted goes on with the same command.
    """
    from asyncds.cli.evaluate import eval_command

    code = eval_command(
        source=source, overrides=overrides or [], tasks=tasks or [], step=step, replace=replace
    )
    raise typer.Exit(code)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file of a sweep.")],
    overrides: Overrides = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    list_only: Annotated[
        bool, typer.Option("--list", help="Say which runs there are and are missing; start none.")
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep what the runs reach here, as rows (.jsonl)."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Runs of these names only, '*-seed[01]-*'; repeatable."
        ),
    ] = None,
) -> None:
    """Make all runs of a sweep that are missing, in processes that stay warm, and compare them."""
    from asyncds.cli.sweep import sweep_command

    code = sweep_command(
        file=file,
        overrides=overrides or [],
        jobs=jobs,
        list_only=list_only,
        results=results,
        only=only or ["*"],
    )
    raise typer.Exit(code)


RoleArguments = Annotated[
    list[str], typer.Argument(metavar="CONFIG [KEY=VALUE]…", help="A YAML file, and overrides.")
]


@app.command()
def coordinator(arguments: RoleArguments) -> None:
    """Run the coordinator of a run alone (what its pod runs)."""
    from services.role import run_role

    raise typer.Exit(run_role("coordinator", arguments))


@app.command()
def generator(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG|RUN [KEY=VALUE]…",
            help="A YAML file, or the directory of a run to join; and overrides.",
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Unique in the fleet; default: host.")] = None,
    index: Annotated[int, typer.Option(min=0, help="Its place among the metrics ports.")] = 0,
) -> None:
    """Run one generator (what its pod runs), or join one to a run on this machine."""
    import socket

    from services.role import run_role

    if Path(arguments[0]).is_dir():
        from asyncds.cli.join import join_arguments, joiner_name

        arguments = join_arguments(Path(arguments[0]), arguments[1:])
        name = name or joiner_name()
    name = name or socket.gethostname()
    raise typer.Exit(run_role("generator", arguments, name=name, index=index))


@app.command()
def learner(arguments: RoleArguments) -> None:
    """Run a learner rank; several: `torchrun … --no-python asyncds learner CONFIG`."""
    from services.role import run_role

    raise typer.Exit(run_role("learner", arguments))


@config_app.command("check")
def config_check(file: ConfigFile, overrides: Overrides = None) -> None:
    """Say what would keep a run, or a sweep, of FILE from working on this machine."""
    from asyncds.cli.check import check_command

    for line in check_command(file, overrides or []):
        print(line)


@config_app.command("show")
def config_show(file: ConfigFile, overrides: Overrides = None) -> None:
    """Print FILE with every default written out."""
    from asyncds.config.load import dump_config, load_config

    print(dump_config(load_config(file, overrides or [])), end="")


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of a configuration, for editors."""
    from asyncds.config.schema import RunConfig

    print(json.dumps(RunConfig.model_json_schema(), indent=2, ensure_ascii=False))


@app.command(name="plan")
def plan_run(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A YAML file of a run; -: manifests of the chart, from stdin."
        ),
    ],
    overrides: Overrides = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Such as h100-80, or cpu; repeatable: a line for each."),
    ] = None,
    generator_gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the generators, if another.")
    ] = None,
    gpu_memory: Annotated[float | None, typer.Option(help="GiB of a GPU without a name.")] = None,
    gpu_tflops: Annotated[float | None, typer.Option(help="Its dense bfloat16 TFLOP/s.")] = None,
    gpu_bandwidth: Annotated[float | None, typer.Option(help="GB/s of its memory.")] = None,
    gpu_link: Annotated[float | None, typer.Option(help="GB/s to the GPU beside it.")] = None,
    network: Annotated[float, typer.Option(help="Gbit/s between machines.")] = 200.0,
    checkpoint_volume: Annotated[float | None, typer.Option(help="Its GiB.")] = None,
    journal_volume: Annotated[float | None, typer.Option(help="Its GiB.")] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a usual prompt; default: half the longest.")
    ] = None,
    completion_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a usual completion; likewise.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="In bytes and seconds.")] = False,
) -> None:
    """Say whether a run of FILE fits on GPUs, what it needs and how fast it would be.

    Exit code 1: it does not fit.
    """
    from asyncds.cli.plan import Wishes, plan_command

    wishes = Wishes(
        gpus=gpu or (),
        generator_gpu=generator_gpu,
        memory=gpu_memory,
        tflops=gpu_tflops,
        bandwidth=gpu_bandwidth,
        link=gpu_link,
        network=network,
        checkpoints=checkpoint_volume,
        journal=journal_volume,
        prompt=prompt_tokens,
        completion=completion_tokens,
    )
    raise typer.Exit(plan_command(file, overrides or [], wishes, as_json=as_json))


@app.command()
def doctor() -> None:
    """Say what this machine has, what a run here would use, and what is missing."""
    from rich.console import Console

    from asyncds.cli.doctor import examine, table

    findings = examine()
    Console().print(table(findings))
    missing = [f.name for f in findings if f.state == "missing"]
    print(f"\nmissing: {', '.join(missing)}" if missing else "\na run can start here")
    raise typer.Exit(1 if missing else 0)


@app.command()
def track(directory: RunDirectory, overrides: Overrides = None) -> None:
    """Send a run to its trackers, as far as they have not got it."""
    from asyncds.cli.track import track_command

    raise typer.Exit(track_command(directory, overrides or []))


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN…", help="Run directories, directories that hold them, or files of rows."
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(metavar="LABEL", help="The group to pair with; default: the first."),
    ] = None,
    over: Annotated[
        str | None,
        typer.Option(
            metavar="SETTING", help="A setting, as rollout.target_lag, to have in columns."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write compare.html, .md, .svg and .json there."),
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="List every pair too.")] = False,
) -> None:
    """Compare runs: means over seeds and paired differences, with intervals."""
    from asyncds.cli.compare import compare_command

    compare_command(runs, baseline=baseline, output=output, pairs=pairs, over=over)


app.command()(models.export)
app.command()(models.sft)
app.command()(files.keys)
app.command("tiny-model")(files.tiny_model)


def _sentences(error: Exception) -> list[str] | None:
    """Sentences for the person; None if it is a failure of ours."""
    from asyncds.config.load import ConfigError

    return str(error).splitlines() if isinstance(error, UserError | ConfigError) else None


if __name__ == "__main__":
    main()
