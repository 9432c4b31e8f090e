"""Starting a run on this machine: its directory, and the command line of each of its processes."""

import os
import socket
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from asyncds.config.load import dump_config
from asyncds.config.operation import CurveConfig
from asyncds.config.schema import RunConfig
from asyncds.launch.children import Child, python
from asyncds.launch.errors import UserError
from asyncds.launch.machine import gpus, uses_cuda, visible_devices
from asyncds.launch.placement import place
from asyncds.rollout.journal import Journal
from asyncds.rollout.journal_file import JournalError
from asyncds.transport.keys import ClientKeys, load_client_keys

SETTINGS = {
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore::FutureWarning",
}
"""Environment variables of every process of a run, unless the user has set them."""


def run_directory(run: RunConfig) -> Path:
    """Where the run writes."""
    return Path(run.runs_dir) / run.name


def make_run_directory(run: RunConfig) -> Path:
    """Make the run's directory, with its configuration.

    What is left of an earlier end, its summary and that the run was told to stop, is removed.
    Raises UserError if its journal can't be used.
    """
    run_dir = run_directory(run)
    (run_dir / "logs").mkdir(parents=True, exist_ok=True)
    if (run_dir / "journal.db").exists():
        try:
            with closing(Journal(run_dir / "journal.db")) as journal, journal.transaction():
                journal.forget_stop()
        except JournalError as error:
            raise UserError(str(error)) from error
    (run_dir / "summary.json").unlink(missing_ok=True)
    (run_dir / "config.yaml").write_text(dump_config(run), "utf-8")
    return run_dir


def lost(run: RunConfig) -> list[str]:
    """Losses of a run that is to go on, and what they mean, a sentence each."""
    journal = run_directory(run) / "journal.db"
    if journal.exists() and journal.stat().st_size:
        return []
    return [
        f"the journal {journal} is missing or empty: the run goes on from its newest checkpoint "
        "with an empty record. If you have a copy, end the run and put the copy there"
    ]


def damaged_checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoints that the learner has set aside."""
    return sorted((run_dir / "checkpoints").glob("damaged-step-*"))


def absolute_paths(run: RunConfig) -> RunConfig:
    """A configuration with files of this machine as absolute paths.

    So its models, data sets, templates and key files can be read from anywhere.
    """

    def whole(name: str | None) -> str | None:
        return str(Path(name).resolve()) if name and Path(name).is_dir() else name

    def here(values: Any, key: str = "") -> Any:
        """The task's values, where a data set or a template that is here has its whole path."""
        if isinstance(values, dict):
            return {key: here(value, key) for key, value in values.items()}
        if isinstance(values, list | tuple):
            return [here(value) for value in values]
        if key not in ("dataset", "template") or not values or "{" in values:
            return values
        path = Path(values).expanduser()
        return str(path.resolve()) if path.exists() else values

    task = type(run.task).model_validate(here(run.task.model_dump()))
    generator = run.generator.model_copy(update={"model": whole(run.generator.model)})
    update = {"model": whole(run.model), "tokenizer": whole(run.tokenizer)}
    coordinator, curve = run.coordinator, run.coordinator.curve
    if curve is not None:
        # Not resolved: a link to keys that are replaced is followed when they are read.
        paths = {key: str(Path(value).absolute()) for key, value in curve.model_dump().items()}
        coordinator = coordinator.model_copy(update={"curve": CurveConfig(**paths)})
    more = {"generator": generator, "coordinator": coordinator, "task": task}
    return run.model_copy(update=update | more)


def client_keys(run: RunConfig) -> ClientKeys | None:
    """Keys of a link to the coordinator; None if links are not encrypted. Raises KeyFileError."""
    curve = run.coordinator.curve
    if curve is None:
        return None
    return load_client_keys(server=Path(curve.server_public), secret=Path(curve.client_secret))


def arguments(run: RunConfig, *, port: int) -> list[str]:
    """Arguments of every role's command. port: of the coordinator."""
    return [
        str(run_directory(run) / "config.yaml"),
        f"coordinator.port={port}",
        "coordinator.stay=false",
        f"runs_dir={run.runs_dir}",
        f"name={run.name}",
    ]


def children(run: RunConfig, *, port: int) -> list[Child]:
    """All processes of a run. port: of the coordinator."""
    return [coordinator(run, port=port), *learner(run, port=port), *generators(run, port=port)]


def coordinator(run: RunConfig, *, port: int) -> Child:
    """The coordinator of a run."""
    return Child(
        name="coordinator",
        command=python("asyncds.cli.main", "coordinator", *arguments(run, port=port)),
        log=run_directory(run) / "logs" / "coordinator-0.log",
        environment=environments(run)[0],
        follows=True,
    )


def learner(
    run: RunConfig,
    *,
    port: int,
    devices: Sequence[str] | None = None,
    nodes: int = 1,
    address: str = "127.0.0.1",
    one_rank: bool = False,
) -> list[Child]:
    """The learner of a run, if there is anything to train; with several ranks, torchrun.

    nodes: the machines that its ranks are on, of which this is the first; address: of this one.
    one_rank: the command of a single rank, whose group something else makes.
    """
    if not run.trains:
        return []
    command = ["asyncds.cli.main", "learner", *arguments(run, port=port)]
    if run.learner.ranks > 1 and not one_rank:
        command = [
            "torch.distributed.run",
            f"--nnodes={nodes}",
            f"--nproc-per-node={run.learner.ranks // nodes}",
            f"--master-addr={address}",
            f"--master-port={free_port()}",
            "-m",
            *command,
        ]
    return [
        Child(
            name="learner",
            command=python(*command),
            log=run_directory(run) / "logs" / "learner-0.log",
            environment=environments(run, devices)[1],
        )
    ]


def generators(run: RunConfig, *, port: int, devices: Sequence[str] | None = None) -> list[Child]:
    """The generators of a run."""
    return [
        Child(
            name=f"generator-{i}",
            command=python(
                "asyncds.cli.main",
                "generator",
                f"--name=generator-{i}",
                f"--index={i}",
                *arguments(run, port=port),
            ),
            log=run_directory(run) / "logs" / f"generator-{i}.log",
            environment=environment,
        )
        for i, environment in enumerate(environments(run, devices)[2:])
    ]


def environments(run: RunConfig, devices: Sequence[str] | None = None) -> list[dict[str, str]]:
    """Variables of the coordinator, the learner and each generator, in this order.

    devices: the GPUs that the run may use, as in CUDA_VISIBLE_DEVICES; default: all of them.
    """
    c = run.generator
    common = {name: value for name, value in SETTINGS.items() if name not in os.environ}
    threads = {"OMP_NUM_THREADS": str(run.learner.cpu_threads)}
    of_learner: dict[str, str] = {}
    of_generators: list[dict[str, str]] = [{}] * c.replicas
    if uses_cuda():
        first, others = place(
            devices or all_devices(),
            ranks=run.learner_ranks,
            replicas=c.replicas,
            per_engine=c.tensor_parallel * c.pipeline_parallel,
        )
        name = "CUDA_VISIBLE_DEVICES"
        of_learner, of_generators = {name: first}, [{name: value} for value in others]
    return [common, common | threads | of_learner, *(common | g for g in of_generators)]


def all_devices() -> list[str]:
    """The GPUs of this machine, as in CUDA_VISIBLE_DEVICES."""
    return visible_devices() or [str(i) for i in range(len(gpus()))]


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
