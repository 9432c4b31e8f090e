"""GPUs by name: memory, arithmetic and bandwidths, from their makers' data sheets."""

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU, or main memory, where processes compute on a CPU.

    memory: bytes, as the driver reports them. flops: dense bfloat16 operations a second. Bytes a
    second: bandwidth, of its memory; link, to the GPU beside it, in one direction; host, to main
    memory likewise. shared: whether all processes of a machine share this memory; what a CPU
    computes in a second is not predicted.
    """

    name: str
    memory: int
    flops: float = 0.0
    bandwidth: float = 0.0
    link: float = 0.0
    host: float = 0.0
    shared: bool = False


def _gpu(
    name: str, mib: int, teraflops: float, gigabytes: float, *, host: float, link: float = 0.0
) -> Gpu:
    """mib: as `nvidia-smi` shows them. gigabytes, host, link: GB/s; no link of its own: host's."""
    return Gpu(
        name=name,
        memory=mib << 20,
        flops=teraflops * 1e12,
        bandwidth=gigabytes * 1e9,
        link=(link or host) * 1e9,
        host=host * 1e9,
    )


_PCIE4, _PCIE5 = 32, 64
"""GB/s of sixteen lanes, in one direction."""
# Dense bfloat16 with float32 sums: half of what a data sheet gives "with sparsity". A link is
# NVLink's total halved.
GPUS = (
    _gpu("a10-24", 23_028, 125, 600, host=_PCIE4),  # NVIDIA A10 data sheet
    _gpu("a40-48", 46_068, 149.7, 696, host=_PCIE4),  # NVIDIA A40 data sheet
    _gpu("a100-40", 40_960, 312, 1555, host=_PCIE4, link=300),  # NVIDIA A100 data sheet, SXM
    _gpu("a100-80", 81_920, 312, 2039, host=_PCIE4, link=300),  # the same, 80 GB SXM
    _gpu("a6000-48", 49_140, 154.8, 768, host=_PCIE4),  # NVIDIA RTX A6000 data sheet
    _gpu("b200-180", 183_359, 2250, 8000, host=_PCIE5, link=900),  # NVIDIA DGX B200, an eighth
    _gpu("h100-80", 81_559, 989, 3350, host=_PCIE5, link=450),  # NVIDIA H100 data sheet, SXM
    _gpu("h200-141", 143_771, 989, 4800, host=_PCIE5, link=450),  # NVIDIA H200 data sheet, SXM
    _gpu("l4-24", 23_034, 121, 300, host=_PCIE4),  # NVIDIA L4 data sheet
    _gpu("l40s-48", 46_068, 362, 864, host=_PCIE4),  # NVIDIA L40S data sheet
    _gpu("rtx4090-24", 24_564, 165.2, 1008, host=_PCIE4),  # NVIDIA Ada architecture paper
    _gpu("rtx6000ada-48", 49_140, 364.2, 960, host=_PCIE4),  # NVIDIA RTX 6000 Ada data sheet
)
"""By name: the model, and the memory in the GB it is sold with."""


def find_gpu(name: str) -> Gpu:
    """The GPU of that name. Raises ValueError with those there are."""
    for gpu in GPUS:
        if gpu.name == name.lower():
            return gpu
    raise ValueError(
        f"no GPU is called {name}: give one of {', '.join(gpu.name for gpu in GPUS)}, or describe "
        "another by --gpu-memory, --gpu-tflops, --gpu-bandwidth and --gpu-link"
    )


def recognise(name: str, memory: int) -> Gpu | None:
    """The GPU that a driver calls so: by the longest name in its words, then the nearest memory."""
    text = name.lower().replace("-", "").replace(" ", "")
    called = [gpu for gpu in GPUS if _model(gpu) in text]
    return max(called, key=lambda gpu: (len(_model(gpu)), -abs(gpu.memory - memory)), default=None)


def _model(gpu: Gpu) -> str:
    return gpu.name.rpartition("-")[0]


def main_memory(size: int) -> Gpu:
    """The memory of a machine without GPUs."""
    return Gpu(name="cpu", memory=size, shared=True)
