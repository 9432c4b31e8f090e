"""A rank's part of a checkpoint: taken from the engine, copied, and written."""

import copy
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from torch import Tensor
from torch.utils._pytree import tree_leaves

from asyncds.engine.export import full_weights, write_export
from asyncds.engine.hashes import Files, save_hashed
from asyncds.engine.host_memory import free_memory
from asyncds.engine.process_group import gathered
from asyncds.engine.training import TrainingEngine

DEEPSPEED, HF = "deepspeed", "hf"
TAG = "state"
_SPARE = 1.1
"""How much more memory must be free than a copy takes: others allocate meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A rank's part of a checkpoint. files: what DeepSpeed wants in each. weights: of the export.

    Its tensors are the engine's own, until they are copied; gathered: but for the weights.
    """

    directory: Path
    files: dict[Path, Any]
    weights: dict[str, Tensor]
    gathered: bool = False

    @property
    def size(self) -> int:
        """Bytes that a copy takes."""
        return sum(tensor.nbytes for tensor in _distinct(self._live).values())

    def copied(self) -> "Part":
        """The same in main memory, while the engine may go on."""
        files, weights = copied(self._live)
        return replace(
            self,
            files=dict(zip(self.files, files, strict=True)),
            weights=self.weights if self.gathered else weights,
        )

    @property
    def _live(self) -> tuple[list[Any], dict[str, Tensor]]:
        return list(self.files.values()), {} if self.gathered else self.weights

    def write(self, engine: TrainingEngine) -> Files:
        """Write it; returns what was hashed meanwhile, by path below the checkpoint."""
        written = {
            str(path.relative_to(self.directory)): save_hashed(state, path)
            for path, state in self.files.items()
        }
        if engine.rank == 0:
            write_export(engine, dict(self.weights), self.directory / HF)
        return written


def part_of(engine: TrainingEngine, directory: Path) -> Part:
    """The part that this rank has to write. A collective; it makes directories, no more."""
    writer = engine.deepspeed.checkpoint_engine
    if not isinstance(writer, TorchCheckpointEngine):
        raise TypeError(f"DeepSpeed writes checkpoints with {type(writer).__name__}")
    files: dict[Path, Any] = {}
    writer.save = lambda state_dict, path: files.update({Path(path): state_dict})
    writer.preserves_storage_sharing = lambda: False  # or it would copy first
    try:
        engine.deepspeed.save_checkpoint(
            str(directory / DEEPSPEED),
            tag=TAG,
            client_state={"torch_rng_state": torch.get_rng_state()},
            save_latest=False,
            exclude_frozen_parameters=engine.adapter is not None,
        )
    finally:
        del writer.save, writer.preserves_storage_sharing
    return Part(
        directory=directory,
        files=files,
        weights=full_weights(engine),
        gathered=engine.zero_stage == 3,
    )


def fits_everywhere(size: int) -> bool:
    """Whether there is memory for the copies of all ranks, this one's `size`. A collective."""
    told = gathered((socket.gethostname(), size, free_memory()))
    return all(
        _SPARE * sum(bytes for host, bytes, _ in told if host == here) < free
        for here, _, free in told
    )


def copied(state: Any) -> Any:
    """A deep copy of nested containers, its tensors in main memory.

    Tensors that are the same memory stay one, as tied weights must.
    """
    copies = {k: tensor.detach().to("cpu", copy=True) for k, tensor in _distinct(state).items()}
    return copy.deepcopy(state, {id(t): copies[_key(t)] for t in _tensors(state)})


def _tensors(state: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]


def _distinct(state: Any) -> dict[tuple[Any, ...], Tensor]:
    return {_key(tensor): tensor for tensor in _tensors(state)}


def _key(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
