"""The machines of a Slurm job, and processes on them as job steps."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from asyncds.config.schema import RunConfig
from asyncds.launch import local
from asyncds.launch.children import Child
from asyncds.launch.errors import UserError
from asyncds.launch.nodes import Node, Place, PlacementError, Spread, spread
from asyncds.launch.site import Survey, reachable

ANSWER_SECONDS = 60.0
"""For Slurm to answer, and for a step that does nothing to have run on every machine."""


class SlurmSite:
    """The machines of the Slurm job that this process is part of."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Ask Slurm. Raises UserError outside of a job, or on a machine that is not part of it."""
        self._job = environment.get("SLURM_JOB_ID", "")
        if not self._job or shutil.which("srun") is None:
            raise UserError(
                "this is not a Slurm job: start it with `sbatch deploy/slurm/run.sbatch CONFIG`, "
                "or in the shell of `salloc`"
            )
        names = _ask("scontrol", "show", "hostnames", environment["SLURM_JOB_NODELIST"]).split()
        here = environment.get("SLURMD_NODENAME", socket.gethostname().partition(".")[0])
        if here not in names:
            raise UserError(
                f"{here} is not one of the machines of the job ({', '.join(names)}): start the run "
                "on one of them, as a batch script does, or with `srun --overlap --pty --nodes 1`"
            )
        names = [here, *(name for name in names if name != here)]
        devices = tuple(str(i) for i in range(_number(environment.get("SLURM_GPUS_ON_NODE", "0"))))
        self.nodes: Sequence[Node] = [
            Node(name=name, address=_address(name), devices=devices) for name in names
        ]
        """The job's machines, all with as many GPUs as this one, which is the first."""

    def prepared(self, run: RunConfig) -> RunConfig:
        """The configuration for these machines. Raises UserError where they can't take the run."""
        self._spread(run)

        def survey(path: Path) -> Survey:
            lacking = ", ".join(self._lacking(path))
            return Survey(
                here=self.nodes[0].address,
                problems=[f"{lacking} don't see the files in {path.parent}"] if lacking else [],
            )

        return reachable(run, survey)

    def children(self, run: RunConfig, *, port: int) -> list[Child]:
        """The processes of a run, those on other machines as job steps."""
        here, places = self.nodes[0], self._spread(run)
        learner = local.learner(
            run, port=port, nodes=max(1, len(places.learner)), address=here.address
        )
        generators = local.generators(run, port=port)
        at_learner = [(child, places.learner) for child in learner]
        at_engines = [(c, (place,)) for c, place in zip(generators, places.generators, strict=True)]
        for child, at in (*at_learner, *at_engines):
            if at[0].devices:
                child.environment["CUDA_VISIBLE_DEVICES"] = ",".join(at[0].devices)
            if [place.node for place in at] != [here]:
                # Slurm may set variables of its own, such as CUDA_VISIBLE_DEVICES, over ours.
                settings = [f"{name}={value}" for name, value in child.environment.items()]
                child.command = self.command(
                    at, ["env", *settings, *child.command], name=child.name
                )
        return [local.coordinator(run, port=port), *learner, *generators]

    def command(self, places: Sequence[Place], command: Sequence[str], *, name: str) -> list[str]:
        """Make the command of a job step of that name, on each of the machines of ``places``.

        PET_NODE_RANK, which torchrun reads, says which of the machines it is on. It shares the
        job's resources with the other steps, since which process has which GPU is decided by its
        environment; srun that is killed ends it.
        """
        return [
            *("srun", "--overlap", "--kill-on-bad-exit=1", "--unbuffered", "--input=none"),
            *(f"--nodes={len(places)}", f"--ntasks={len(places)}", "--ntasks-per-node=1"),
            f"--nodelist={','.join(place.node.name for place in places)}",
            f"--job-name={name}",
            *("sh", "-c", 'export PET_NODE_RANK="$SLURM_PROCID"; exec "$@"', "sh", *command),
        ]

    def _spread(self, run: RunConfig) -> Spread:
        """Where everything of a run is put. Raises UserError where it doesn't fit."""
        c = run.generator
        try:
            return spread(
                self.nodes,
                ranks=run.learner_ranks,
                replicas=c.replicas,
                per_engine=c.tensor_parallel * c.pipeline_parallel,
            )
        except PlacementError as error:
            raise UserError(str(error)) from error

    def _lacking(self, path: Path) -> list[str]:
        """The names of the machines that don't see a file."""
        number = str(len(self.nodes))
        seen = _ask(
            *("srun", "--overlap", "--input=none", f"--nodes={number}", f"--ntasks={number}"),
            *("--ntasks-per-node=1", "sh", "-c"),
            'if test -e "$0"; then echo "seen $SLURMD_NODENAME"; fi',
            str(path),
        )
        names = re.findall(r"^seen (\S+)$", seen, flags=re.MULTILINE)
        return [node.name for node in self.nodes if node.name not in names]


def _address(name: str) -> str:
    """The address of a machine, as Slurm's daemons reach it."""
    found = re.search(r"\bNodeAddr=(\S+)", _ask("scontrol", "--oneliner", "show", "node", name))
    return found[1] if found else name


def _number(text: str) -> int:
    """The number of GPUs in what Slurm says, which may begin with their kind: `8`, `a100:8`."""
    last = text.rpartition(":")[2]
    return int(last) if last.isdigit() else 0


def _ask(*command: str) -> str:
    """The output of a command of Slurm. Raises UserError if it fails."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"Slurm does not answer: {error}") from error
    if done.returncode:
        raise UserError(
            f"`{' '.join(command[:3])} …` ended with exit code {done.returncode}: "
            f"{done.stderr.strip()}"
        )
    return done.stdout
