"""The weights of a model in training, by the names of its files, and each rank's part of them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from asyncds.weights.adapter import adapted_layers, adapter_weights, base_weights
from asyncds.weights.buckets import TensorSpec
from asyncds.weights.names import Sent, sent_as

T = TypeVar("T")


def weight_specs(
    model: torch.nn.Module, *, prefix: str = "", adapter: bool = False
) -> tuple[TensorSpec, ...]:
    """Describe the tensors that ``iterate_weights`` will yield, without gathering anything.

    Raises UnknownNamesError for a model whose parameters are no tensors of its files.
    """
    in_memory = _specs_in_memory(_named_weights(model, prefix, adapter))
    sent = _sent(model, in_memory, adapter)
    return tuple(
        TensorSpec(part.name, spec.dtype, part.shape)
        for spec in in_memory
        for part in sent[spec.name]
    )


def _sent(
    model: torch.nn.Module, in_memory: list[TensorSpec], adapter: bool
) -> Mapping[str, list[Sent]]:
    """The tensors that each parameter is sent as."""
    shapes = {spec.name: spec.shape for spec in in_memory}
    if adapter:  # as it is: engines read it as a file of PEFT's
        return {n: [Sent(name=n, shape=shape, start=0)] for n, shape in shapes.items()}
    return sent_as(model, shapes)


def _specs_in_memory(parameters: Mapping[str, torch.nn.Parameter]) -> list[TensorSpec]:
    """Parameters as in memory; of one that ZeRO-3 partitions, the true shape is ``ds_shape``."""
    return [
        TensorSpec(
            name,
            str(parameter.dtype).removeprefix("torch."),
            tuple(getattr(parameter, "ds_shape", parameter.shape)),
        )
        for name, parameter in parameters.items()
    ]


@dataclass(frozen=True)
class Piece:
    """A run of a tensor's elements in row-major order: ``values`` [n], from the ``start``-th on."""

    name: str
    start: int
    values: torch.Tensor


def iterate_weights(
    model: torch.nn.Module,
    *,
    prefix: str = "",
    adapter: bool = False,
    gather_bytes: int,
    place: int | None = 0,
    places: int = 1,
) -> Iterator[Piece]:
    """Yield the ``place``-th of ``places`` parts of every parameter, as pieces of what is sent.

    All parts together are the model, with a tied weight once, under its first name. There is a
    piece of every tensor of ``weight_specs``, in their order, be it an empty one.

    prefix: removed from the names, e.g. ``"module."``. adapter: send the model's adapter instead;
    without this weights that have one are merged with it. place: None for a rank that has no part.
    gather_bytes: the bound of what is gathered at a time under ZeRO-3. Nothing is where every rank
    has a part: then it is the partition that the rank holds. Otherwise the gather is a collective,
    so that every rank must iterate to the end, in step.

    The values are valid until the next are asked for: ZeRO-3 frees gathered memory on leaving the
    gather, so a consumer copies what it wants to keep.
    """
    parameters = _named_weights(model, prefix, adapter)
    in_memory = _specs_in_memory(parameters)
    sent = _sent(model, in_memory, adapter)
    adapted = {} if adapter else _without(prefix, adapted_layers(model))
    for specs in _groups(in_memory, max_bytes=gather_bytes):
        members = {spec.name: parameters[spec.name] for spec in specs}
        partitioned = [p for p in members.values() if hasattr(p, "ds_id")]
        held = place is not None and all(_partitions(p) == places for p in partitioned)
        small = [p for name in members if name in adapted for p in adapted[name].parameters]
        gathered = [p for p in small if hasattr(p, "ds_id")] + ([] if held else partitioned)
        with _gathered(gathered) if gathered else nullcontext():
            for name, parameter in members.items() if place is not None else ():
                assert place is not None
                if held and hasattr(parameter, "ds_id"):
                    # What lies beyond the parameter is padding, at the last partitions.
                    start = min(place * parameter.ds_tensor.numel(), parameter.ds_numel)
                    values = parameter.ds_tensor.detach()[: parameter.ds_numel - start]
                else:
                    flat = parameter.detach().reshape(-1)
                    start, end = (n * flat.numel() // places for n in (place, place + 1))
                    values = flat[start:end]
                if name in adapted:
                    values = adapted[name].merged(values, start)
                yield from _pieces(sent[name], start, values)


def _pieces(parts: Iterable[Sent], start: int, values: torch.Tensor) -> Iterator[Piece]:
    """A piece of every part, of a run of a parameter's elements from the ``start``-th on."""
    end = start + values.numel()
    for part in parts:
        low, high = min(max(start, part.start), part.end), max(min(end, part.end), part.start)
        if high <= low:
            yield Piece(part.name, low - part.start, values[:0])
        else:
            yield Piece(part.name, low - part.start, values[low - start : high - start])


def _partitions(parameter: Any) -> int:
    """How many partitions of a parameter lie in the ranks' memory; 0 where they don't."""
    from deepspeed.runtime.zero.partition_parameters import PartitionedParamStatus

    if parameter.ds_tensor.status is not PartitionedParamStatus.AVAILABLE:
        return 0
    return int(parameter.ds_numel_aligned // parameter.ds_tensor.numel())


def _groups(specs: Iterable[TensorSpec], *, max_bytes: int) -> Iterator[list[TensorSpec]]:
    """Consecutive tensors of at most ``max_bytes`` bytes together; a larger one is alone."""
    group: list[TensorSpec] = []
    size = 0
    for spec in specs:
        if group and size + spec.nbytes > max_bytes:
            yield group
            group, size = [], 0
        group.append(spec)
        size += spec.nbytes
    if group:
        yield group


def _named_weights(
    model: torch.nn.Module, prefix: str, adapter: bool
) -> dict[str, torch.nn.Parameter]:
    return _without(prefix, adapter_weights(model) if adapter else base_weights(model))


def _without(prefix: str, named: Mapping[str, T]) -> dict[str, T]:
    return {name.removeprefix(prefix): value for name, value in named.items()}


def _gathered(parameters: list[torch.nn.Parameter]) -> AbstractContextManager[object]:
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)
