"""A Ray cluster, and processes of a run on it as actors. Only ``ray_step`` knows Ray itself."""

import importlib.util
import os
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from asyncds.config.schema import RunConfig
from asyncds.launch import local
from asyncds.launch.children import Child, python
from asyncds.launch.errors import UserError
from asyncds.launch.ray_plan import RANK0, Cluster, Step, resources, shown, without_room
from asyncds.launch.site import Survey, reachable
from asyncds.user_code import DIRECTORY

STEP = "asyncds.launch.ray_step"
ANSWER_SECONDS = 300.0
"""For the cluster to say what there is, which includes making the runtime environment."""
PASSED_ON = ("PYTHONPATH", "PYTHONSAFEPATH", DIRECTORY)
"""Variables that say where the program is, and the user's modules."""


class RaySite:
    """The machines of a Ray cluster, of which this is one."""

    def __init__(self, address: str = "auto") -> None:
        """address: `host:port` of the cluster's head, or `auto`. Raises UserError without Ray."""
        if importlib.util.find_spec("ray") is None:
            raise UserError("--on ray needs the package ray: install `asyncds[ray]`")
        if address.startswith("ray://"):
            raise UserError(
                f"a run can't be led from outside of its cluster, by {address}: start it on one of "
                "the cluster's machines, or with `ray job submit … -- asyncds run --on ray CONFIG`"
            )
        self._address = address
        self._cluster = Cluster(here="", machines=[])

    def prepared(self, run: RunConfig) -> RunConfig:
        """The configuration for this cluster. Raises UserError where it can't take the run."""

        def survey(path: Path) -> Survey:
            self._cluster = self._look(run, path)
            problems = defaultdict(list)
            for machine in self._cluster.machines:
                problems[machine.problem].append(machine.name)
            lacking = [f"{', '.join(names)}: {why}" for why, names in problems.items() if why]
            return Survey(here=self._cluster.here, problems=lacking)

        prepared = reachable(run, survey)
        self._refuse_too_small(run)
        return prepared

    def children(self, run: RunConfig, *, port: int) -> list[Child]:
        """The processes of a run: the coordinator here, the others wherever Ray has room."""
        rank, generator = resources(run, gpus=self._gpus)
        learner = local.learner(run, port=port, one_rank=True)
        for child in learner:
            child.command = [*child.command, f"weights.host={RANK0}"]
        generators = local.generators(run, port=port)
        for child in learner:
            self._place(child, run, rank, ranks=run.learner.ranks)
        for child in generators:
            self._place(child, run, generator)
        return [local.coordinator(run, port=port), *learner, *generators]

    def _place(
        self, child: Child, run: RunConfig, needs: Mapping[str, float], *, ranks: int = 1
    ) -> None:
        """Have a process run on the cluster."""
        given = child.environment
        step = Step(
            name=f"{run.name}/{child.name}",
            address=self._address,
            arguments=list(child.command[1:]),
            resources=dict(needs),
            ranks=ranks,
            environment={k: v for k, v in given.items() if k != "CUDA_VISIBLE_DEVICES"},
            runtime_env=_runtime_env(run),
        )
        child.command = python(STEP, msgspec.json.encode(step).decode())

    @property
    def _gpus(self) -> bool:
        return any(machine.resources.get("GPU") for machine in self._cluster.machines)

    def _refuse_too_small(self, run: RunConfig) -> None:
        if run.ray.autoscales:
            return
        rank, generator = resources(run, gpus=self._gpus)
        wanted = [
            *((f"learner rank {i}", rank) for i in range(run.learner_ranks)),
            *((f"generator-{i}", generator) for i in range(run.generator.replicas)),
        ]
        machines = self._cluster.machines
        if found := without_room(wanted, machines):
            name, needs = found
            each = [shown({r: m.resources.get(r, 0.0) for r in needs}) for m in machines]
            raise UserError(
                f"the cluster is too small: it has no room for {name}, which needs {shown(needs)}, "
                f"beside what else the run starts; its machines have {'; '.join(each)}. Lower "
                "generator.replicas, learner.ranks, ray.rank or ray.generator, add machines, or "
                "set ray.autoscales to true if the cluster adds them when they are asked for"
            )

    def _look(self, run: RunConfig, path: Path) -> Cluster:
        environment = msgspec.json.encode(_runtime_env(run)).decode()
        try:
            done = subprocess.run(
                python(STEP, "look", self._address, environment, str(path)),
                capture_output=True,
                text=True,
                timeout=ANSWER_SECONDS,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"the Ray cluster at {self._address} did not answer within {ANSWER_SECONDS:g} s"
            ) from None
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise UserError(f"no connection to the Ray cluster at {self._address}: {said[-1]}")
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=Cluster)


def _runtime_env(run: RunConfig) -> dict[str, Any]:
    """Ray's runtime environment of every process.

    The user's modules are in its working directory, if it has one, else where they are here.
    """
    given = dict(run.ray.runtime_env)
    ours = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if "working_dir" in given:
        del ours[DIRECTORY]
    return given | {"env_vars": ours | given.get("env_vars", {})}
