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
    """A directory as PEFT writes them, which goes with this object."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """config: the contents of its adapter_config.json."""
        self._config = config
        self._directory = tempfile.TemporaryDirectory(prefix="adapter-")

    def write(self, tensors: list[tuple[str, torch.Tensor]]) -> None:
        """Write a version of the adapter. Raises OSError, and SafetensorError for a full disk."""
        directory = Path(self._directory.name)
        (directory / CONFIG_FILE).write_text(json.dumps(dict(self._config)))
        save_file(dict(tensors), directory / WEIGHTS_FILE)

    @property
    def request(self) -> LoRARequest:
        """The request that makes an engine load it, in place of the version it has."""
        return policy_adapter(self._directory.name, load_inplace=True)


def policy_adapter(path: str, *, load_inplace: bool = False) -> LoRARequest:
    """The adapter of the policy, which every request is sampled with. It is the only one."""
    return LoRARequest("policy", 1, path, load_inplace=load_inplace)
