"""The weights of a model in training, as Hugging Face names and full tensors."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from asyncds.weights.buckets import TensorSpec, plan_buckets


def weight_specs(model: torch.nn.Module, *, prefix: str = "") -> tuple[TensorSpec, ...]:
    """Describe the tensors that ``iterate_weights`` will yield, without gathering anything.

    Under ZeRO-3 a partitioned parameter is empty, its true shape is ``ds_shape``.
    """
    return tuple(
        TensorSpec(
            name,
            str(parameter.dtype).removeprefix("torch."),
            tuple(getattr(parameter, "ds_shape", parameter.shape)),
        )
        for name, parameter in _named_weights(model, prefix).items()
    )


def iterate_weights(
    model: torch.nn.Module, *, prefix: str = "", gather_bytes: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, full tensor) of every parameter; a tied weight once, under its first name.

    prefix: removed from the names, e.g. ``"module."``. gather_bytes: the bound of what is gathered
    at a time under ZeRO-3, where every rank must iterate to the end, in step (the gather is a
    collective).

    The tensor is valid until the next one is asked for: ZeRO-3 frees gathered memory on leaving
    the gather, so a consumer copies what it wants to keep.
    """
    parameters = _named_weights(model, prefix)
    for bucket in plan_buckets(weight_specs(model, prefix=prefix), max_bytes=gather_bytes):
        members = [parameters[spec.name] for spec in bucket.specs]
        with _gathered(members):
            for spec, parameter in zip(bucket.specs, members, strict=True):
                yield spec.name, parameter.detach()


def _named_weights(model: torch.nn.Module, prefix: str) -> dict[str, torch.nn.Parameter]:
    return {
        name.removeprefix(prefix): parameter
        for name, parameter in model.named_parameters(remove_duplicate=True)
    }


def _gathered(parameters: list[torch.nn.Parameter]) -> AbstractContextManager[object]:
    partitioned = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not partitioned:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(partitioned)
