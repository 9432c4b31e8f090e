"""What is staged: every weight once, by one rank or by several, as a copy with checksums."""

import threading
from math import prod

import pytest
import torch

from asyncds.weights.buckets import TensorSpec
from asyncds.weights.checksum import checksum
from asyncds.weights.layout import unpack_layout
from asyncds.weights.region import Region
from asyncds.weights.sender import WeightSender
from asyncds.weights.source import iterate_weights, weight_specs
from asyncds.weights.staging import StagedWeights
from tests.support.watched_allocator import WatchedAllocator
from tests.unit.weights.test_transfer import BUCKET_BYTES, TIMEOUT, Tied, staged


def test_an_adapter_is_announced_as_one() -> None:
    specs = [TensorSpec("w", "float32", (2,))]
    staged = StagedWeights(specs=specs, bucket_bytes=64, adapter={"r": 4})
    layout = unpack_layout(staged.layout.pack())
    assert (layout.adapter, list(layout.specs)) == ({"r": 4}, specs)


def test_specs_describe_what_is_yielded_and_tied_weights_once() -> None:
    model = Tied()
    specs = weight_specs(model, prefix="body.")
    pieces = list(iterate_weights(model, prefix="body.", gather_bytes=64))
    assert [spec.name for spec in specs] == [piece.name for piece in pieces]
    assert [spec.name for spec in specs][:3] == ["embed.weight", "0.weight", "0.bias"]
    assert "head.weight" not in [spec.name for spec in specs]
    assert [prod(spec.shape) for spec in specs] == [piece.values.numel() for piece in pieces]


def test_staging_is_a_copy_with_checksums() -> None:
    model = Tied()
    weights = staged(model, version=3)
    before = weights.checksums
    with torch.no_grad():
        model.embed.weight.add_(1)
    assert weights.version == 3
    assert before == tuple(int(checksum(bucket)) for bucket in weights.buckets)
    weights.stage(iterate_weights(model, gather_bytes=64), version=4)
    assert weights.version == 4
    assert before[0] != weights.checksums[0]
    assert before[1:] == weights.checksums[1:]


def test_staging_refuses_a_source_that_is_not_the_planned_one() -> None:
    model = Tied()
    weights = StagedWeights(specs=weight_specs(model), bucket_bytes=BUCKET_BYTES)
    pairs = list(iterate_weights(model, gather_bytes=64))
    for wrong in (pairs[:-1], [*pairs, pairs[0]], [pairs[1], pairs[0], *pairs[2:]]):
        with pytest.raises(ValueError, match=r"expected|shorter|longer"):
            weights.stage(wrong, version=1)
        assert weights.version is None
    with pytest.raises(ValueError, match="no version is staged"):
        WeightSender(transport="gloo", host="127.0.0.1").send(
            weights, rendezvous="gloo://127.0.0.1:1/x", world_size=2, timeout=1
        )


def test_staging_waits_for_a_send_under_way() -> None:
    model = Tied()
    weights = staged(model, version=1)
    with weights.lock:
        stager = threading.Thread(
            target=weights.stage,
            args=(iterate_weights(model, gather_bytes=64),),
            kwargs={"version": 2},
        )
        stager.start()
        stager.join(0.1)
        assert stager.is_alive()
        assert weights.version == 1
    stager.join(TIMEOUT)
    assert weights.version == 2


def test_a_rank_without_a_part_copies_nothing() -> None:
    model = Tied()
    weights = StagedWeights(specs=weight_specs(model), bucket_bytes=BUCKET_BYTES, place=None)
    weights.copy(iterate_weights(model, gather_bytes=64, place=None), version=1)
    assert weights.buckets == weights.tensors == []


@pytest.mark.parametrize("places", [2, 3, 7])
def test_ranks_of_one_machine_copy_a_part_each(places: int) -> None:
    model, whole = Tied(), staged(Tied(), version=4)
    region = Region(whole.placement.nbytes)
    ranks = [
        StagedWeights(
            specs=weight_specs(model),
            bucket_bytes=BUCKET_BYTES,
            region=Region(whole.placement.nbytes, path=region.path),
            place=place,
            places=places,
        )
        for place in range(places)
    ]
    copied = []
    for place, rank in enumerate(ranks):
        pieces = list(iterate_weights(model, gather_bytes=64, place=place, places=places))
        copied.append(sum(piece.values.numel() for piece in pieces))
        rank.copy(pieces, version=4)
    assert max(copied) - min(copied) <= len(whole.placement.specs)
    assert ranks[0].version is None
    ranks[0].seal(4)
    assert (ranks[0].version, ranks[0].checksums) == (4, whole.checksums)


def test_only_what_was_copied_last_is_sealed() -> None:
    model = Tied()
    weights = staged(model, version=1)
    weights.copy(iterate_weights(model, gather_bytes=64), version=2)
    assert weights.version is None, "it may not be sent"
    weights.seal(1)
    assert weights.version is None
    weights.seal(2)
    assert weights.version == 2


def test_a_region_of_another_size_is_refused() -> None:
    region = Region(64)
    with pytest.raises(OSError, match="not a region of 32 bytes"):
        Region(32, path=region.path)
    region.flat[0] = 7
    assert int(Region(64, path=region.path).flat[0]) == 7


def test_staging_and_sending_allocate_no_more_than_the_region() -> None:
    """An allocator that is watched: every tensor memory that staging takes beside the region."""
    model = Tied()
    weights = staged(model)
    with WatchedAllocator() as allocator:
        weights.stage(iterate_weights(model, gather_bytes=64), version=2)
    assert allocator.peak <= 8, "but for a checksum"
