"""Commands that make models: supervised training, and exports of checkpoints."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    step: Annotated[
        int | None, typer.Option(min=1, help="Which checkpoint of RUN; default: the newest.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: export/step-<step> in RUN.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="HUB_ID", help="Upload it there, such as me/my-model.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Everybody may see it, if --push makes it.")
    ] = False,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Of LoRA: the adapter alone, not merged.")
    ] = False,
) -> None:
    """Write the model of a checkpoint with a card, for from_pretrained, vLLM and the hub."""
    from asyncds.cli.export import export_command

    print(
        export_command(run_dir=run, step=step, out=out, push=push, public=public, adapter=adapter)
    )
    if push is not None:
        print(f"uploaded to {push}")


def sft(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file: docs/sft.md.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]…", help="Overrides such as learner.lr=1e-5."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete what is there of that name first.")
    ] = False,
) -> None:
    """Train on answers, supervised: a warm start for a run. What was interrupted goes on."""
    from asyncds.cli.sft import sft_command

    raise typer.Exit(sft_command(file=file, overrides=overrides or [], replace=replace))
