"""Joining a run that is under way on this machine."""

import os
import socket
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from asyncds.config.load import load_config
from asyncds.launch import local
from asyncds.launch.errors import UserError
from asyncds.rollout.journal import Journal
from asyncds.rollout.journal_file import JournalError
from asyncds.transport.keys import KeyFileError
from asyncds.transport.observer import Observer

ANSWER_SECONDS = 10.0
"""Seconds for the coordinator to answer; a machine that starts engines is slow."""


def join_arguments(run_dir: Path, overrides: Sequence[str]) -> list[str]:
    """Arguments of a role's command that takes part in the run that goes on in `run_dir`.

    Its metrics are on a port that is free, unless `overrides` say otherwise. Raises ConfigError,
    and UserError if nobody answers there or the run is over.
    """
    arguments, address, observer = open_run(run_dir, ["telemetry.port=0", *overrides])
    with closing(observer):
        status = observer.status(ANSWER_SECONDS)
    if status is None:
        raise UserError(
            f"no coordinator answers at {address}: start the run with `asyncds run --resume "
            f"{run_dir}`, then join it"
        )
    if status.over:
        raise UserError(f"the run in {run_dir} is over: there is nothing to join")
    for name, value in local.SETTINGS.items():
        os.environ.setdefault(name, value)
    return arguments


def open_run(run_dir: Path, overrides: Sequence[str] = ()) -> tuple[list[str], str, Observer]:
    """Arguments for a role of the run in a directory, its coordinator's address, and a way to ask.

    Raises ConfigError, and UserError where none has started there.
    """
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"{run_dir} is not a run directory: it has no config.yaml")
    where = run_dir.resolve()
    arguments = [
        str(where / "config.yaml"),
        f"coordinator.port={_port(where)}",
        f"runs_dir={where.parent}",
        f"name={where.name}",
        *overrides,
    ]
    run = load_config(Path(arguments[0]), arguments[1:])
    address = f"tcp://{run.coordinator.host}:{run.coordinator.port}"
    try:
        return arguments, address, Observer(address, keys=local.client_keys(run))
    except KeyFileError as error:
        raise UserError(str(error)) from error


def joiner_name() -> str:
    """One that nobody else has, in the run or beside it."""
    return f"{socket.gethostname()}-{os.getpid()}"


def _port(run_dir: Path) -> int:
    """The one that the coordinator wrote down."""
    journal = run_dir / "journal.db"
    if journal.is_file():
        try:
            with closing(Journal(journal, read_only=True)) as opened:
                port = opened.meta("port")
        except JournalError as error:
            raise UserError(str(error)) from error
        if port is not None:
            return int(port)
    raise UserError(f"no coordinator has started in {run_dir} yet: try again when the run goes on")
