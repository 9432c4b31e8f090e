"""A copy of one version of the weights, in flat buckets, ready to be sent."""

import threading
from collections.abc import Iterable

import torch

from asyncds.weights.buckets import TensorSpec, pack, plan_buckets
from asyncds.weights.checksum import checksum


class StagedWeights:
    """One version in flat buckets, with the checksum of each.

    The buffers are allocated once and hold one version after another. ``lock`` is held by who
    sends them: ``stage`` waits for it, so that a version is never overwritten while it is sent (a
    send has a deadline, so the wait has one).
    """

    def __init__(
        self,
        *,
        specs: Iterable[TensorSpec],
        bucket_bytes: int,
        keep: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        """keep: whether this rank holds the copy (the sender) or only takes part in the gathers."""
        self.specs = tuple(specs)
        self.bucket_bytes = bucket_bytes
        self.buckets = plan_buckets(self.specs, max_bytes=bucket_bytes)
        self.flats = [bucket.empty(device) for bucket in self.buckets] if keep else []
        self.version: int | None = None
        self.checksums: tuple[int, ...] = ()
        self.lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        return sum(bucket.nbytes for bucket in self.buckets)

    def stage(self, source: Iterable[tuple[str, torch.Tensor]], *, version: int) -> None:
        """Copy ``source`` in. Under ZeRO-3 a collective: every rank calls it with its source.

        Raises ValueError where ``source`` doesn't yield exactly ``specs``, in their order.
        """
        with self.lock:
            self.version = None
            if self.flats:
                self._copy(source)
            else:
                for _ in source:
                    pass
            self.version = version

    def _copy(self, source: Iterable[tuple[str, torch.Tensor]]) -> None:
        places = [
            (bucket, index, flat)
            for bucket, flat in zip(self.buckets, self.flats, strict=True)
            for index in range(len(bucket.specs))
        ]
        for (name, tensor), (bucket, index, flat) in zip(source, places, strict=True):
            if name != bucket.specs[index].name:
                raise ValueError(f"expected {bucket.specs[index].name}, the source has {name}")
            pack(bucket, index, tensor, flat)
        self.checksums = tuple(int(checksum(flat)) for flat in self.flats)
