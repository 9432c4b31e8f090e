"""A copy of one version of the weights, ready to be sent."""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from asyncds.weights.buckets import TensorSpec
from asyncds.weights.checksum import checksum
from asyncds.weights.layout import Layout
from asyncds.weights.region import Region
from asyncds.weights.source import Piece


class StagedWeights:
    """One version in main memory, with the checksum of each of its buckets.

    The region is allocated once and holds one version after another. It may be shared by the ranks
    of one machine: each copies its own part, then rank 0 seals the version. ``lock`` is held by who
    sends it: copying waits for it, so that a version is never overwritten while it is sent (a send
    has a deadline, so the wait has one).
    """

    def __init__(
        self,
        *,
        specs: Iterable[TensorSpec],
        bucket_bytes: int,
        region: Region | None = None,
        place: int | None = 0,
        places: int = 1,
        adapter: Mapping[str, Any] | None = None,
    ) -> None:
        """Hold no version yet.

        adapter: where versions are those of an adapter, its configuration (`Layout`). region: by
        default one of its own. place: the part of every tensor that is copied here, of
        ``places``; None: no part, but this rank may have to take part in gathers.
        """
        self.layout = Layout(specs=tuple(specs), bucket_bytes=bucket_bytes, adapter=adapter)
        self.placement = self.layout.placement
        self.place, self.places = place, places
        if region is None and place is not None:
            region = Region(self.placement.nbytes)
        self._region = region
        self._copied: int | None = None
        self.version: int | None = None
        self.checksums: tuple[int, ...] = ()
        self.lock = threading.Lock()

    @property
    def buckets(self) -> list[torch.Tensor]:
        """The buckets that are sent, in order; none on a rank that has no part."""
        return [] if self._region is None else self.placement.buckets(self._region.flat)

    @property
    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        """The tensors of the version, as views."""
        return [] if self._region is None else self.placement.tensors(self._region.flat)

    def stage(self, source: Iterable[Piece], *, version: int) -> None:
        """Copy the only part there is, and seal it."""
        self.copy(source, version=version)
        self.seal(version)

    def copy(self, source: Iterable[Piece], *, version: int) -> None:
        """Copy this rank's part in. Training must not go on before every rank has.

        Raises ValueError where ``source`` doesn't yield a piece of exactly the planned tensors, in
        order.
        """
        with self.lock:
            self.version = self._copied = None
            names = [spec.name for spec in self.placement.specs] if self.place is not None else []
            on_gpu = False
            for piece, (index, name) in zip(source, enumerate(names), strict=True):
                if piece.name != name:
                    raise ValueError(f"expected {name}, the source has {piece.name}")
                assert self._region is not None
                self.placement.put(index, piece.start, piece.values, self._region.flat)
                on_gpu |= piece.values.is_cuda
            if on_gpu:
                torch.cuda.current_stream().synchronize()
            self._copied = version

    def seal(self, version: int) -> None:
        """Take the checksums of what was copied, which is ready to be sent then.

        It reads all of a version, which takes longer than copying it: nobody waits for it who
        trains. Nothing happens where another version was copied meanwhile.
        """
        with self.lock:
            if self._copied == version:
                self.checksums = tuple(int(checksum(bucket)) for bucket in self.buckets)
                self.version = version
