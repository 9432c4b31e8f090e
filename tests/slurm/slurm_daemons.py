"""A real Slurm of three machines on this one: munged, slurmctld and three slurmd, as root.

Each slurmd believes that it is a machine with a GPU, which is an empty file. What runs in a job is
the machine's own Python, on the CPU.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
NODES = 3
START_SECONDS = 60.0
MUNGE_SOCKET = Path("/run/munge/munge.socket.2")
"""Where Debian's Slurm looks for munged."""

CONFIG = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
GresTypes=gpu
NodeName=node[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] \
CPUs={cpus} Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no Slurm here, or ""."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in DAEMONS if shutil.which(name) is None]
    return f"needs {', '.join(absent)} (apt install slurmctld slurmd slurm-client munge)" * bool(
        absent
    )


@contextmanager
def slurm(root: Path, *, port: int) -> Iterator[dict[str, str]]:
    """The daemons, while the block runs; yields the environment of Slurm's commands. port: the
    first of four that are free."""
    host, nodes = socket.gethostname(), range(1, NODES + 1)
    (root / "state").mkdir()
    (root / "gpu").touch()
    (root / "gres.conf").write_text(f"NodeName=node[1-{NODES}] Name=gpu File={root}/gpu\n")
    (root / "slurm.conf").write_text(
        CONFIG.format(
            host=host,
            root=root,
            port=port,
            nodes=NODES,
            first=port + 1,
            last=port + NODES,
            cpus=os.cpu_count(),
        )
    )
    environment = os.environ | {"SLURM_CONF": str(root / "slurm.conf")}
    commands = [["slurmctld", "-D"], *(["slurmd", "-D", "-N", f"node{i}"] for i in nodes)]
    daemons: list[subprocess.Popen[bytes]] = []
    with _munge(root), (root / "daemons.log").open("wb") as log:
        try:
            for command in commands:
                daemons.append(
                    subprocess.Popen(
                        command, env=environment, stdout=log, stderr=log, start_new_session=True
                    )
                )
            _wait(environment)
            yield environment
        finally:
            subprocess.run(["scancel", "--me", "--signal=KILL"], env=environment, check=False)
            for daemon in reversed(daemons):
                daemon.terminate()
            for daemon in daemons:
                daemon.wait(30)


@contextmanager
def _munge(root: Path) -> Iterator[None]:
    """munged, unless one runs."""
    if (
        MUNGE_SOCKET.exists()
        and subprocess.run(["munge", "-n"], capture_output=True).returncode == 0
    ):
        yield
        return
    home = root / "munge"
    home.mkdir(mode=0o700)
    MUNGE_SOCKET.parent.mkdir(mode=0o755, exist_ok=True)
    (home / "key").write_bytes(os.urandom(1024))
    (home / "key").chmod(0o400)
    daemon = subprocess.Popen(
        [
            *("munged", "--foreground", "--force", f"--key-file={home}/key"),
            *(f"--pid-file={home}/pid", f"--seed-file={home}/seed", f"--socket={MUNGE_SOCKET}"),
        ]
    )
    try:
        yield
    finally:
        daemon.terminate()
        daemon.wait(30)


def _wait(environment: dict[str, str]) -> None:
    """Until all machines are idle."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        asked = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--format=%t"],
            env=environment,
            capture_output=True,
            text=True,
        )
        if asked.stdout.split() == ["idle"] * NODES:
            return
        assert time.monotonic() < deadline, asked
        time.sleep(0.2)
