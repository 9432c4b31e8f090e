"""Resources of this machine, found out without importing anything heavy."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from asyncds.engine.host_memory import cgroup


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that this process may use.

    memory_gb in GiB, None where it shares the machine's; capability (major, minor).
    """

    name: str
    memory_gb: float | None
    capability: tuple[int, int]


def gpus() -> list[Gpu]:
    """NVIDIA GPUs by nvidia-smi, as far as CUDA_VISIBLE_DEVICES allows; [] without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap,index,uuid"]
    answer = subprocess.run(
        [*query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=30
    )
    return [] if answer.returncode else parse_gpus(answer.stdout, visible_devices())


def visible_devices() -> list[str] | None:
    """The entries of CUDA_VISIBLE_DEVICES; None where it is not set and all GPUs are visible."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if value is None else [v.strip() for v in value.split(",") if v.strip()]


def parse_gpus(table: str, visible: list[str] | None) -> list[Gpu]:
    """nvidia-smi's lines `name, MiB, capability, index, uuid`."""
    found = []
    for line in table.strip().splitlines():
        name, memory, capability, index, uuid = (field.strip() for field in line.rsplit(",", 4))
        if visible is None or index in visible or any(v and uuid.startswith(v) for v in visible):
            major, _, minor = capability.partition(".")
            found.append(
                Gpu(
                    name=name,
                    memory_gb=float(memory) / 1024 if memory.isdigit() else None,
                    capability=(int(major), int(minor or 0)),
                )
            )
    return found


def version(distribution: str) -> str | None:
    """The installed version of a package; None if it is not there."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def uses_cuda() -> bool:
    """Whether a run here computes on GPUs: there are some, and PyTorch is built for them."""
    return bool(gpus()) and not (version("torch") or "").endswith("+cpu")


def cores() -> int:
    """CPU cores this process may use, container limits included."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else psutil.cpu_count() or 1
    quota, _, period = cgroup("cpu.max").partition(" ")
    return max(1, min(allowed, int(quota) // int(period))) if quota.isdigit() else allowed


def memory_bytes() -> int:
    """Memory this process may use, container limits included."""
    limit = cgroup("memory.max")
    total = psutil.virtual_memory().total
    return min(total, int(limit)) if limit.isdigit() else total


def free_bytes(path: Path) -> int:
    """Free space of the file system that `path` is in, or would be."""
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """`path`, or the nearest directory above it that exists."""
    path = path.absolute()
    return path if path.exists() else existing(path.parent)
