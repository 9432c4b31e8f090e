"""A LoRA adapter that has arrived, as files: vLLM loads adapters from nowhere else."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from vllm.lora.request import LoRARequest

from asyncds.weights.adapter import CONFIG_FILE, WEIGHTS_FILE


class AdapterFiles:
    """A version of an adapter in a directory as PEFT writes them, from `write` until `discard`.

    It lasts no longer than from arrival to activation: a worker that is killed takes nothing along.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """config: the contents of its adapter_config.json."""
        self._config = config
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def write(self, tensors: list[tuple[str, torch.Tensor]]) -> None:
        """Write the version. Raises OSError, and SafetensorError for a full disk."""
        self._directory = tempfile.TemporaryDirectory(prefix="adapter-")
        directory = Path(self._directory.name)
        (directory / CONFIG_FILE).write_text(json.dumps(dict(self._config)))
        save_file(dict(tensors), directory / WEIGHTS_FILE)

    @property
    def request(self) -> LoRARequest:
        """The request that makes an engine load it, in place of the version it has."""
        assert self._directory is not None, "it is written when it has arrived"
        return policy_adapter(self._directory.name, load_inplace=True)

    def discard(self) -> None:
        """Delete the files: the engine has read them."""
        if self._directory is not None:
            self._directory.cleanup()


def policy_adapter(path: str, *, load_inplace: bool = False) -> LoRARequest:
    """The adapter of the policy, which every request is sampled with. It is the only one."""
    return LoRARequest("policy", 1, path, load_inplace=load_inplace)
