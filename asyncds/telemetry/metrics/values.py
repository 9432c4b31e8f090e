"""The values that a record has for metrics, by key."""

from collections.abc import Iterator, Mapping
from typing import Any

from asyncds.telemetry.metrics.declaration import Role

Values = dict[str, Any]

_LEARNER = "learner/"


def batch_values(line: Mapping[str, Any], role: Role) -> Values:
    """The values of a role in a line of metrics.jsonl."""
    if role == "learner":
        return {k.removeprefix(_LEARNER): v for k, v in line.items() if k.startswith(_LEARNER)}
    return {k: v for k, v in line.items() if not k.startswith(_LEARNER)}


def evaluation_values(result: Mapping[str, Any]) -> Values:
    """Values in the result of an evaluation by their keys, such as `pass@4` or `pass@4/low`.

    Those of an evaluation set are `sets/SET/pass@4` and so on.
    """
    return dict(_flat(result))


def _flat(result: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in result.items():
        if name == "pass@k":
            yield from ((f"pass@{k}", share) for k, share in value.items())
        elif name == "pass@k_interval":
            for k, (low, high) in value.items():
                yield from ((f"pass@{k}/low", low), (f"pass@{k}/high", high))
        elif name == "sets":
            for part, numbers in value.items():
                yield from ((f"sets/{part}/{key}", number) for key, number in _flat(numbers))
        elif isinstance(value, Mapping):
            yield from ((f"{name}/{part}", number) for part, number in value.items())
        else:
            yield name, value
