"""A run as Kubernetes manifests of the chart have it: configuration, replicas, volumes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from asyncds.launch.errors import UserError

_COMPONENT = "app.kubernetes.io/component"
_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)+=.*")
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "G": 1e9, "T": 1e12}
Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Release:
    """A rendered release of the chart.

    overrides: of its learner and of its first pool of generators, all replicas counted.
    checkpoints, journal: bytes of their volumes, where the chart makes them.
    """

    config: str
    overrides: list[str]
    checkpoints: float | None
    journal: float | None


def read_manifests(text: str) -> Release:
    """Read what `helm template` prints. Raises UserError where that is no release of the chart."""
    try:
        objects = [o for o in yaml.safe_load_all(text) if isinstance(o, dict)]
    except yaml.YAMLError as error:
        raise UserError(
            f"the manifests are not valid YAML: {' '.join(str(error).split())}"
        ) from error
    configs = [
        o["data"]["config.yaml"]
        for o in objects
        if o.get("kind") == "ConfigMap" and "config.yaml" in (o.get("data") or {})
    ]
    if not configs:
        raise UserError(
            "the manifests have no configuration of a run: give what `helm template` prints of "
            "the chart asyncds"
        )
    pools = [o for o in objects if _component(o) == "generator" and "replicas" in _spec(o)]
    overrides = [*_overrides(o for o in objects if _component(o) == "learner")]
    overrides += _overrides(pools[:1])
    replicas = sum(int(_spec(pool)["replicas"]) for pool in pools)
    if replicas:
        overrides.append(f"generator.replicas={replicas}")
    # Pods reach the learner's over the network.
    overrides.append("weights.host=learner")
    return Release(
        config=configs[0],
        overrides=overrides,
        checkpoints=_volume(objects, "learner"),
        journal=_volume(objects, "coordinator"),
    )


def _component(o: Object) -> str:
    return str(((o.get("metadata") or {}).get("labels") or {}).get(_COMPONENT, ""))


def _spec(o: Object) -> Object:
    spec = o.get("spec")
    return spec if isinstance(spec, dict) else {}


def _overrides(objects: Iterator[Object] | list[Object]) -> list[str]:
    """Arguments of containers that are settings, each once."""
    found = (text for o in objects for text in _texts(o) if _OVERRIDE.fullmatch(text))
    return [*dict.fromkeys(found)]


def _texts(node: Any) -> Iterator[str]:
    """Every text in a list `args`, however deep."""
    if isinstance(node, dict):
        for key, inner in node.items():
            if key == "args" and isinstance(inner, list):
                yield from (text for text in inner if isinstance(text, str))
            else:
                yield from _texts(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _texts(inner)


def _volume(objects: list[Object], component: str) -> float | None:
    """Bytes that the claim of a component asks for."""
    for o in objects:
        if o.get("kind") == "PersistentVolumeClaim" and _component(o) == component:
            return _bytes(str(o["spec"]["resources"]["requests"]["storage"]))
        for claim in _spec(o).get("volumeClaimTemplates") or ():
            if _component(o) == component:
                return _bytes(str(claim["spec"]["resources"]["requests"]["storage"]))
    return None


def _bytes(quantity: str) -> float:
    """Bytes of a Kubernetes quantity such as `500Gi`."""
    number = quantity.rstrip("KMGTi")
    return float(number) * _UNITS.get(quantity[len(number) :], 1)
