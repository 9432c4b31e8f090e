"""Run a process of a run on a Ray cluster, as srun does on Slurm: the one part that knows Ray.

`python -m asyncds.launch.ray_step STEP` (a ``Step``, as JSON) reserves what the process needs,
starts it there, prints what it prints, passes on SIGTERM, and ends with its exit code. The actor at
the other end does no more than that either, and is not restarted by Ray: whoever started this
starts it again. It is a process of its own because Ray ends the process that uses it when the
cluster's head is gone.

`python -m asyncds.launch.ray_step look ADDRESS RUNTIME_ENV PATH` prints what there is, a
``Cluster``, and which machines can't take part: they don't see the file PATH.
"""

import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import ray
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from asyncds.launch.children import inherited_environment
from asyncds.launch.ray_plan import (
    RANK0,
    Cluster,
    Machine,
    Seat,
    Step,
    rank_environments,
    shown,
)

log = logging.getLogger(__name__)

FAILURE = 1
TERMINATED = 128 + signal.SIGTERM
LOOK_SECONDS = 240.0
"""For every machine of the cluster to answer."""
START_SECONDS = 600.0
"""For the actors to come up, which includes making the runtime environment, and again for their
processes to start."""
READ_SECONDS = 2.0
"""For which an actor waits for output before it says that there is none."""
WAIT_SECONDS = 30.0
"""Between two lines that say what is waited for."""
END_SECONDS = 15.0
"""For the other ranks to leave when one has failed, and for a process that lost its actor."""
GUARD = (
    'exec 3<&0; (read -r _ <&3; kill -s TERM -- "-$0" && sleep '
    f'{END_SECONDS:.0f} && kill -s KILL -- "-$0") >/dev/null 2>&1 &'
)
"""Ends a process's session when the standard input closes, which it does with the actor, however
that ends. In the background, since Ray ends the children of an actor."""


class Host:
    """The actor: one process on its machine, in a session of its own."""

    def seat(self) -> Seat:
        """Where this is."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        context = ray.get_runtime_context()
        return Seat(
            node=context.get_node_id(),
            address=ray.util.get_node_ip_address(),
            port=port,
            gpus=[str(gpu) for gpu in ray.get_gpu_ids()],
        )

    def start(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        """Start this machine's Python."""
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=inherited_environment() | environment,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        group = str(self._process.pid)
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, group], stdin=subprocess.PIPE, start_new_session=True
        )
        self._guard.wait()

    def read(self) -> tuple[bytes, int | None]:
        """Output since the last call, and the exit code at the end: waits a little for either."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + READ_SECONDS
        while True:
            code = self._process.poll()
            data = self._process.stdout.read() or b""
            if data or code is not None or time.monotonic() > deadline:
                return data, code
            time.sleep(0.1)

    def signal(self, number: int) -> None:
        """Signal the process and those it has started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)


def run(step: Step) -> int:
    """Run a step to its end. Returns the exit code; of a failure with several ranks, the first."""
    with _connected(step.address, step.runtime_env):
        told: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda n, _: told.append(n))
        group = placement_group([step.resources] * step.ranks, strategy="PACK")
        if not _reserved(step, group, told):
            return TERMINATED
        actors = [_actor(step, group, i) for i in range(step.ranks)]
        try:
            seats = _answers([actor.seat.remote() for actor in actors], told)
            log.info("%s is on %s", step.name, ", ".join(dict.fromkeys(s.address for s in seats)))
            arguments = [word.replace(RANK0, seats[0].address) for word in step.arguments]
            environments = [step.environment | own for own in rank_environments(seats)]
            _answers(
                [
                    actor.start.remote(arguments, environment)
                    for actor, environment in zip(actors, environments, strict=True)
                ],
                told,
            )
        except _ToldError:
            return TERMINATED
        except (RayError, TimeoutError) as error:
            log.error("%s did not start on the cluster: %s", step.name, error)
            return FAILURE
        return _follow(step, actors, seats, told)


class _ToldError(Exception):
    """A signal came before the processes ran."""


def _answers(calls: Sequence[Any], told: list[int]) -> list[Any]:
    """The results of calls to actors.

    Raises TimeoutError after START_SECONDS, RayError of an actor that is lost, _ToldError.
    """
    deadline = time.monotonic() + START_SECONDS
    waiting = list(calls)
    while waiting:
        done, waiting = ray.wait(waiting, timeout=0.5)
        ray.get(done)  # so that the first that is lost ends the wait
        if told:
            raise _ToldError
        if waiting and time.monotonic() > deadline:
            raise TimeoutError(f"no answer from the actors within {START_SECONDS:g} s")
    return list(ray.get(list(calls)))


def _actor(step: Step, group: PlacementGroup, rank: int) -> Any:
    rest = {name: n for name, n in step.resources.items() if name not in ("CPU", "GPU")}
    return (
        ray.remote(Host)
        .options(
            name=step.name if step.ranks == 1 else f"{step.name}-{rank}",
            num_cpus=step.resources.get("CPU", 0),
            num_gpus=step.resources.get("GPU", 0),
            resources=rest,
            max_concurrency=4,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=group, placement_group_bundle_index=rank
            ),
        )
        .remote()
    )


def _reserved(step: Step, group: PlacementGroup, told: list[int]) -> bool:
    """Whether Ray has reserved what the step needs, for which this waits until told to end."""
    said = -WAIT_SECONDS
    while not group.wait(timeout_seconds=2):
        if told:
            return False
        if time.monotonic() - said > WAIT_SECONDS:
            said = time.monotonic()
            each = f"{step.ranks} times " if step.ranks > 1 else ""
            free = ray.available_resources()
            there = shown({name: free.get(name, 0.0) for name in step.resources})
            print(
                f"waiting for {each}{shown(step.resources)} on the cluster, which has {there} free",
                flush=True,
            )
    return True


def _follow(step: Step, actors: list[Any], seats: list[Seat], told: list[int]) -> int:
    """Print what the processes print until all have ended; the first failure ends the others."""
    reads = {actor.read.remote(): i for i, actor in enumerate(actors)}
    failed, deadline = 0, float("inf")
    while reads and time.monotonic() < deadline:
        while told:
            _signal(actors, told.pop())
        for done in ray.wait(list(reads), timeout=0.5)[0]:
            i = reads.pop(done)
            try:
                data, code = ray.get(done)
            except RayActorError as error:
                log.info("%s", error)
                log.error("lost with its machine, or with its actor on it: %s", seats[i].address)
                data, code = b"", FAILURE
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            if code is None:
                reads[actors[i].read.remote()] = i
            elif code and not failed:
                failed, deadline = code, time.monotonic() + END_SECONDS
                _signal([actors[j] for j in reads.values()], signal.SIGTERM)
    _signal(actors, signal.SIGKILL)
    return 128 - failed if failed < 0 else failed


def _signal(actors: list[Any], number: int) -> None:
    for actor in actors:
        actor.signal.remote(number)


def look(address: str, runtime_env: dict[str, Any], path: str) -> Cluster:
    """The machines of a cluster, and those that don't see a file."""
    with _connected(address, runtime_env):
        nodes = [node for node in ray.nodes() if node["Alive"]]
        asked = [
            ray.remote(_problem)
            .options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote(path)
            for node in nodes
        ]
        ray.wait(asked, num_returns=len(asked), timeout=LOOK_SECONDS)
        return Cluster(
            here=ray.util.get_node_ip_address(),
            machines=[
                Machine(
                    name=node["NodeManagerHostname"] + "/" + node["NodeManagerAddress"],
                    resources=node["Resources"],
                    problem=_answer(answer),
                )
                for node, answer in zip(nodes, asked, strict=True)
            ],
        )


def _problem(path: str) -> str:
    """Why the machine that this runs on can't take part in a run."""
    if importlib.util.find_spec("asyncds") is None:
        return f"has no asyncds in {sys.executable}"
    return "" if os.path.exists(path) else f"does not see the files in {os.path.dirname(path)}"


def _answer(asked: Any) -> str:
    try:
        return str(ray.get(asked, timeout=0))
    except RayError as error:
        return f"does not answer ({type(error).__name__})"


@contextmanager
def _connected(address: str, runtime_env: dict[str, Any]) -> Iterator[None]:
    ray.init(
        address=address,
        runtime_env=runtime_env,
        configure_logging=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


def main(arguments: list[str]) -> int:
    """Look, or run a step."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    if arguments[0] == "look":
        _, address, runtime_env, path = arguments
        found = look(address, msgspec.json.decode(runtime_env), path)
        print(msgspec.json.encode(found).decode())
        return 0
    return run(msgspec.json.decode(arguments[0], type=Step))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
