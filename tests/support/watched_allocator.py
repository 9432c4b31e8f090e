"""An allocator that is watched: how much tensor memory a stretch of code takes at a time."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class WatchedAllocator(TorchDispatchMode):
    """Counts the bytes of tensor memory that is taken while it is on. peak: the most at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        before = {
            tensor.untyped_storage().data_ptr()
            for tensor in tree_leaves((args, kwargs))
            if isinstance(tensor, torch.Tensor)
        }
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in before:
                    self._take(tensor, storage.nbytes())
        return result

    def _take(self, tensor: torch.Tensor, nbytes: int) -> None:
        self.live += nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(tensor, self._give_back, nbytes)

    def _give_back(self, nbytes: int) -> None:
        self.live -= nbytes
