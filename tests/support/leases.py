"""Leases as they go over the wire."""

from asyncds.protocol.wire import Lease


def wire_lease(id: int, *, group_size: int = 1) -> Lease:
    return Lease(
        id=id,
        split="train",
        row=0,
        attempt=1,
        group_size=group_size,
        seed=0,
        temperature=1.0,
        max_tokens=1,
        top_p=1.0,
        top_k=-1,
        min_p=0.0,
        straggler_seconds=1.0,
        min_group=1,
    )
