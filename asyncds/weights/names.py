"""Names that engines know: those of a model's files, which may differ from those in memory.

transformers 5 fuses experts and moves prefixes while it loads, and undoes that when it saves. What
its own reversal makes of a parameter is found out once, without the weights: each of its rows is
stood for by a number, and where the numbers come out says which rows a tensor of the files has.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A tensor of the files: elements of a parameter in row-major order, from ``start`` on."""

    name: str
    shape: Shape
    start: int

    @property
    def end(self) -> int:
        return self.start + prod(self.shape)


class UnknownNamesError(ValueError):
    """Weights that can't be sent by names that an engine knows; the message names some."""


_known: "WeakKeyDictionary[torch.nn.Module, dict[str, list[Sent]]]" = WeakKeyDictionary()


def sent_as(model: torch.nn.Module, shapes: Mapping[str, Shape]) -> dict[str, list[Sent]]:
    """The tensors that each parameter is sent as, in the order of its elements, all of them.

    shapes: of the whole parameters, by their names in memory. Raises UnknownNamesError for a model
    whose parameters are more than rows of its files' tensors.
    """
    if model not in _known:
        _known[model] = _found(model, shapes)
    return _known[model]


def _found(model: torch.nn.Module, shapes: Mapping[str, Shape]) -> dict[str, list[Sent]]:
    if not hasattr(model, "save_pretrained"):  # a module that no library has loaded
        return {name: [Sent(name=name, shape=shape, start=0)] for name, shape in shapes.items()}
    from transformers.core_model_loading import revert_weight_conversion

    names = list(shapes)
    ends = list(accumulate((_rows(shape) for shape in shapes.values()), initial=0))
    numbers = {
        name: _numbered(shape, first)
        for (name, shape), first in zip(shapes.items(), ends, strict=False)
    }
    try:
        reverted: dict[str, torch.Tensor] = revert_weight_conversion(cast(Any, model), numbers)
    except Exception as error:  # whatever the library raises for shapes that it does not expect
        raise _unsendable(model, f"{type(error).__name__}: {error}") from error
    found: dict[str, list[Sent]] = {name: [] for name in names}
    for name, tensor in reverted.items():
        first = int(tensor.flatten()[0])
        owner = names[bisect_right(ends, first) - 1]
        shape = shapes[owner]
        rows = tensor.shape[: 1 if len(shape) == 1 else -1]
        if not torch.equal(tensor, _numbered((*rows, *shape[-1:]) if shape[1:] else rows, first)):
            raise _unsendable(model, f"{name} is no run of rows of {owner}")
        row = shape[-1] if len(shape) > 1 else 1
        true = (*tensor.shape[:-1], row) if len(shape) > 1 else tuple(tensor.shape)
        start = (first - ends[names.index(owner)]) * row
        found[owner].append(Sent(name=name, shape=tuple(map(int, true)), start=start))
    for name, parts in found.items():
        parts.sort(key=lambda part: part.start)
        met = [0, *(part.end for part in parts)]
        if [part.start for part in parts] != met[:-1] or met[-1] != prod(shapes[name]):
            raise _unsendable(model, f"{name} is not made of whole tensors of the files")
    return found


def _rows(shape: Shape) -> int:
    return prod(shape[:-1]) if len(shape) > 1 else prod(shape)


def _numbered(shape: Shape, first: int) -> torch.Tensor:
    """A parameter whose rows are their numbers, from ``first`` on, twice: that is wide enough."""
    numbers = torch.arange(first, first + _rows(shape))
    return numbers.view(*shape[:-1], 1).repeat_interleave(2, -1) if len(shape) > 1 else numbers


def _unsendable(model: torch.nn.Module, why: str) -> UnknownNamesError:
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    return UnknownNamesError(
        f"the weights of a {kind} can't be sent to engines by the names of its files ({why}): "
        "choose another model"
    )


def check_names(names: Iterable[str], source: str, *, prefix: str = "") -> None:
    """Compare the names that will be sent with those in a model's own files, which engines load.

    prefix: that files of the bare model leave out. Nothing is said where the files list no names.
    Raises UnknownNamesError.
    """
    known = names_in(source)
    unknown = [n for n in names if known and not {n, n.removeprefix(f"{prefix}.")} & known]
    if unknown:
        raise UnknownNamesError(
            f"{len(unknown)} weights would be sent to engines by names that the files of model "
            f"{source} do not have, such as {unknown[0]}: vLLM would not know them; choose another "
            "model, or write it anew with save_pretrained"
        )


def names_in(source: str) -> set[str]:
    """Names of the tensors in a model's safetensors files; none where it has no such files."""
    from transformers.utils import cached_file

    quiet: dict[str, Any] = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    if single := cached_file(source, "model.safetensors", **quiet):
        with Path(single).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return set(json.loads(file.read(length))) - {"__metadata__"}
    if index := cached_file(source, "model.safetensors.index.json", **quiet):
        return set(json.loads(Path(index).read_text())["weight_map"])
    return set()
