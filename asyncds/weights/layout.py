"""The layout of a transfer: which tensors are sent, in what order, and in buckets of what size.

It is as long as the model has tensors, and hardly ever changes. So it travels once to each
receiver; afterwards its fingerprint stands for it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asyncds.weights.buckets import Placement, TensorSpec


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The plan that sender and receivers of a transfer must agree on before the bytes come."""

    specs: Sequence[TensorSpec]
    bucket_bytes: int
    adapter: Mapping[str, Any] | None = None
    """Where the tensors are a LoRA adapter's: its configuration, as a file of PEFT's has it."""

    def pack(self) -> bytes:
        """The layout as it travels."""
        specs = [asdict(spec) for spec in self.specs]
        return json.dumps(
            {"specs": specs, "bucket_bytes": self.bucket_bytes, "adapter": self.adapter}
        ).encode()

    @property
    def placement(self) -> Placement:
        """The places of its tensors, and how they are cut."""
        return Placement.of(self.specs, bucket_bytes=self.bucket_bytes)


def unpack_layout(packed: bytes) -> Layout:
    """The layout that `Layout.pack` packed."""
    found = json.loads(packed)
    specs = [TensorSpec(s["name"], s["dtype"], tuple(s["shape"])) for s in found["specs"]]
    return Layout(specs=specs, bucket_bytes=found["bucket_bytes"], adapter=found["adapter"])


def fingerprint(packed: bytes) -> str:
    """The name of a packed layout, which no other has."""
    return hashlib.sha256(packed).hexdigest()
