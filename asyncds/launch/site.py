"""A run on several machines: the same processes as on one, each started where it was placed."""

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Protocol

from asyncds.config.operation import LOOPBACK, CurveConfig
from asyncds.config.schema import RunConfig
from asyncds.launch import local
from asyncds.launch.children import Child
from asyncds.launch.errors import UserError
from asyncds.launch.nodes import Node, Place, PlacementError, Spread, spread
from asyncds.transport.keys import KeyFileError, make_keys

CLIENT = "run"
"""The name of the key pair that all processes of a run share."""


class Site(Protocol):
    """The machines of a run, of which this is the first, and a way to start processes on them.

    All see the same files under the same paths: the program, models, data and run directories.
    """

    @property
    def nodes(self) -> Sequence[Node]:
        """The machines; the first is this one."""

    def command(self, places: Sequence[Place], command: Sequence[str], *, name: str) -> list[str]:
        """Make the command that runs ``command`` once on each of the machines of ``places``.

        It passes on what ``command`` prints, and ends with its exit code. PET_NODE_RANK, which
        torchrun reads, says which of the machines it is on. A command that is killed ends what it
        started. name: of the process, for people.
        """

    def lacking(self, path: Path) -> list[str]:
        """Name the machines that don't see a file. Raises UserError if they can't be asked."""


def prepared(run: RunConfig, site: Site) -> RunConfig:
    """The configuration with the addresses of this site, and with keys.

    There are no keys where the site is only this machine. Raises UserError where machines don't
    see the files of this one.
    """
    parent = Path(run.runs_dir).resolve()
    parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=parent, prefix=".seen-by-all-") as file:
        if lacking := site.lacking(Path(file.name)):
            raise UserError(
                f"{', '.join(lacking)} don't see the files in {parent}: set runs_dir to a "
                "directory of a file system that all machines of the run share"
            )
    here = site.nodes[0].address
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


def placed(run: RunConfig, site: Site) -> Spread:
    """Where everything of a run is put. Raises UserError where it doesn't fit."""
    c = run.generator
    try:
        return spread(
            site.nodes,
            ranks=run.learner_ranks,
            replicas=c.replicas,
            per_engine=c.tensor_parallel * c.pipeline_parallel,
        )
    except PlacementError as error:
        raise UserError(str(error)) from error


def children(run: RunConfig, *, port: int, site: Site, places: Spread) -> list[Child]:
    """The processes of a run. port: of the coordinator, on this machine."""
    here = site.nodes[0]
    learner = local.learner(run, port=port, nodes=max(1, len(places.learner)), address=here.address)
    generators = local.generators(run, port=port)
    for child, at in [
        *((child, places.learner) for child in learner),
        *((child, (place,)) for child, place in zip(generators, places.generators, strict=True)),
    ]:
        if at[0].devices:
            child.environment["CUDA_VISIBLE_DEVICES"] = ",".join(at[0].devices)
        if [place.node for place in at] != [here]:
            # A scheduler may set variables of its own, such as CUDA_VISIBLE_DEVICES, over ours.
            settings = [f"{name}={value}" for name, value in child.environment.items()]
            child.command = site.command(at, ["env", *settings, *child.command], name=child.name)
    return [local.coordinator(run, port=port), *learner, *generators]


def _loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address in LOOPBACK
