"""A run on several machines: the same processes as on one, each started where it was placed."""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Protocol

from asyncds.config.operation import LOOPBACK, CurveConfig
from asyncds.config.schema import RunConfig
from asyncds.launch.children import Child
from asyncds.launch.errors import UserError
from asyncds.transport.keys import KeyFileError, make_keys

CLIENT = "run"
"""The name of the key pair that all processes of a run share."""


class Site(Protocol):
    """Machines that a run is spread over, of which this is one.

    All see the same files under the same paths: models, data and run directories.
    """

    def prepared(self, run: RunConfig) -> RunConfig:
        """The configuration for these machines. Raises UserError where they can't take the run."""

    def children(self, run: RunConfig, *, port: int) -> list[Child]:
        """The processes of a run that is prepared, each with a command that starts it in its place.

        The command passes on what the process prints, and ends with its exit code; one that is
        killed ends what it started. port: of the coordinator, on this machine.
        """


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Answers of the machines of a run.

    here: the address of this one for the others. problems: of those that can't take part, a
    sentence each.
    """

    here: str
    problems: list[str]


def reachable(run: RunConfig, survey: Callable[[Path], Survey]) -> RunConfig:
    """The configuration with the address of this machine, and with keys.

    There are no keys where nobody but this machine can reach it. survey: of a file that all
    machines must see. Raises UserError where one has a problem.
    """
    parent = Path(run.runs_dir).resolve()
    parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=parent, prefix=".seen-by-all-") as file:
        found = survey(Path(file.name))
    if found.problems:
        raise UserError(
            *found.problems,
            f"set runs_dir (now {parent}) to a directory of a file system that all machines of the "
            "run share, and have the program on each of them",
        )
    here = found.here
    coordinator = run.coordinator.model_copy(update={"host": here})
    if coordinator.curve is None and not coordinator.allow_unencrypted and not _loopback(here):
        keys = parent / f"{run.name}.keys"
        try:
            if not (keys / f"{CLIENT}.key_secret").exists():
                make_keys(keys, [CLIENT])
        except KeyFileError as error:
            raise UserError(str(error)) from error
        curve = CurveConfig(
            server_secret=str(keys / "server.key_secret"),
            clients=str(keys / "clients"),
            server_public=str(keys / "server.key"),
            client_secret=str(keys / f"{CLIENT}.key_secret"),
        )
        coordinator = coordinator.model_copy(update={"curve": curve})
    weights = run.weights.model_copy(update={"host": here})
    return run.model_copy(update={"coordinator": coordinator, "weights": weights})


def _loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address in LOOPBACK
