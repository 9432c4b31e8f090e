"""A run whose roles are on machines of their own, started by the roles' own commands, as users
start them: encrypted, and with nobody who would start again what ends."""

import os
import subprocess
import sys
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM

import psutil

from asyncds.config.load import load_config
from asyncds.config.schema import RunConfig
from asyncds.launch import local
from asyncds.launch.children import Child
from asyncds.telemetry.run_log import read_run_log
from asyncds.transport.keys import load_client_keys
from asyncds.transport.observer import Observer
from tests.chaos.processes import find
from tests.chaos.watched_run import WatchedRun
from tests.network.namespaces import Machines
from tests.support.paths import ROOT

CONFIG = ROOT / "configs" / "quickstart.yaml"
ROLES = ("coordinator", "learner", "generator")
"""Names of their machines, too."""
PORT, METRICS_PORT = 5555, 9400
LEAVE_SECONDS = 60.0
MORE_STEPS = 6
"""More than what was leased before and is yet to be trained, so that all of it will be."""


class NetworkRun(WatchedRun):
    """One generator and a learner of one rank. A process of theirs that ends is an error."""

    def __init__(self, *, run_dir: Path, machines: Machines, overrides: list[str]) -> None:
        """Make keys and configuration; nothing is started."""
        keys = run_dir.parent / "keys"
        names = [f"--name={name}" for name in ("learner", "generator", "observer")]
        subprocess.run(
            [sys.executable, "-m", "asyncds.cli.main", "keys", str(keys), *names],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=LEAVE_SECONDS,
        )
        self._machines = machines
        self._keys = keys
        self._overrides = [
            f"name={run_dir.name}",
            f"runs_dir={run_dir.parent}",
            f"coordinator.host={machines.addresses['coordinator']}",
            f"coordinator.port={PORT}",
            f"coordinator.curve.server_secret={keys / 'server.key_secret'}",
            f"coordinator.curve.clients={keys / 'clients'}",
            f"coordinator.curve.server_public={keys / 'server.key'}",
            f"coordinator.curve.client_secret={keys / 'learner.key_secret'}",
            f"weights.host={machines.addresses['learner']}",
            f"telemetry.port={METRICS_PORT}",
            *overrides,
        ]
        config = self.config()
        local.make_run_directory(config)
        [learner] = local.learner(config, port=PORT)
        [generator] = local.generators(config, port=PORT)
        self._children = {
            "coordinator": self._child("coordinator", local.coordinator(config, port=PORT)),
            "learner": self._child("learner", learner),
            "generator": self._child("generator", generator),
        }
        # ZeroMQ's threads, which connect, stay where they were started: beside the coordinator,
        # so that it can be asked whatever becomes of its cable.
        with machines.inside("coordinator"):
            observer = Observer(
                f"tcp://{machines.addresses['coordinator']}:{PORT}",
                keys=load_client_keys(
                    server=keys / "server.key", secret=keys / "observer.key_secret"
                ),
            )
        super().__init__(
            run_dir=run_dir, observer=observer, metrics_port=METRICS_PORT, generators=1
        )

    def _child(self, role: str, child: Child) -> Child:
        mine = f"coordinator.curve.client_secret={self._keys / role}.key_secret"
        return replace(child, command=self._machines.command(role, [*child.command, mine]))

    def config(self, *overrides: str) -> RunConfig:
        """As the processes have it."""
        return load_config(CONFIG, [*self._overrides, *overrides])

    @property
    def pid(self) -> int:
        return os.getpid()

    def at(self, role: str) -> AbstractContextManager[None]:
        return self._machines.inside(role)

    def start(self) -> None:
        """Start the processes."""
        for child in self._children.values():
            child.start()

    def go_on(self) -> None:
        """Nobody may end: what the network does is to be survived."""
        for child in self._children.values():
            assert child.code is None, child.failure()

    def log(self, role: str) -> str:
        """Everything that a role's process wrote."""
        return self._children[role].log.read_text(errors="replace")

    @property
    def rejoined(self) -> int:
        """How often the generator was given up and joined again."""
        return self.log("generator").count("joining again, with the engine as it is")

    def finish(self, seconds: float) -> RunConfig:
        """Come to a good end some steps from now; returns the configuration that holds then.

        The run goes on under a coordinator that wants no more steps than these: the others, and the
        engine, stay as they are.
        """
        coordinator = self._children["coordinator"]
        coordinator.signal(SIGKILL)
        assert coordinator.process is not None
        coordinator.process.wait(LEAVE_SECONDS)
        steps = len(read_run_log(self.run_dir / "metrics.jsonl")) + MORE_STEPS
        last = replace(coordinator, command=[*coordinator.command, f"steps={steps}"])
        self._children["coordinator"] = last
        last.start()
        for child in self._children.values():
            assert child.process is not None
            child.process.wait(seconds)
            assert child.code == 0, child.failure()
        return self.config(f"steps={steps}")

    def close(self) -> None:
        """End it, whatever it does."""
        self._observer.close()
        for part in ("engine", "scorer"):
            if process := find(self.pid, part):  # type: ignore[arg-type]
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(SIGCONT)
        for number in (SIGTERM, SIGKILL):
            for child in self._children.values():
                child.signal(number)
            for child in self._children.values():
                if child.process is not None:
                    with suppress(subprocess.TimeoutExpired):
                        child.process.wait(LEAVE_SECONDS)
        for child in self._children.values():
            child.sweep()
