"""How much main memory this process may still take; imports nothing heavy."""

from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes that this process may still take, a container's limit included."""
    free = psutil.virtual_memory().available
    limit = cgroup("memory.max")
    if limit.isdigit():
        # As Kubernetes counts: page cache that was not used lately can be had.
        stat = dict(line.split() for line in cgroup("memory.stat").splitlines())
        taken = int(cgroup("memory.current")) - int(stat.get("inactive_file", 0))
        free = min(free, int(limit) - taken)
    return free


def cgroup(name: str) -> str:
    """A file of the container's limits, "" where there is none."""
    file = _CGROUP / name
    return file.read_text().strip() if file.exists() else ""
