"""Commands that make models: exports of checkpoints."""

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
) -> None:
    """Write the model of a checkpoint with a card, for from_pretrained, vLLM and the hub."""
    from asyncds.cli.export import export_command

    print(export_command(run_dir=run, step=step, out=out, push=push, public=public))
    if push is not None:
        print(f"uploaded to {push}")
