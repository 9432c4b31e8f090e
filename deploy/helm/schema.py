"""Writes the configuration's own JSON Schema into the chart's values.schema.json.

python deploy/helm/schema.py

Everything but `properties.config` and the definitions `config.…` is written by hand and stays.
"""

import json
from pathlib import Path
from typing import Any

from asyncds.config.schema import RunConfig

SCHEMA = Path(__file__).parent / "asyncds/values.schema.json"
NUMBER = r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"
OWN_KIND = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"
"""A kind of the user's own, `package.module:Name`."""
PREFIX = "config."
"""What the names of the configuration's definitions begin with, among the chart's own."""


def schema(chart: dict[str, Any]) -> dict[str, Any]:
    """The chart's schema with the configuration's as it is now."""
    whole = RunConfig.model_json_schema()
    config = _plain(whole, whole["$defs"])
    definitions = {k: v for k, v in chart["definitions"].items() if not k.startswith(PREFIX)}
    definitions |= {f"{PREFIX}{k}": v for k, v in config.pop("$defs").items()}
    return {
        **chart,
        "properties": {**chart["properties"], "config": config},
        "definitions": definitions,
    }


def _plain(node: Any, known: dict[str, Any]) -> Any:
    """What Helm's validator needs of a schema: no texts, no defaults, references to where it is.
    known: the configuration's definitions."""
    if isinstance(node, list):
        return [_plain(inner, known) for inner in node]
    if not isinstance(node, dict):
        return node
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("properties", "$defs"):
            out[key] = {name: _plain(inner, known) for name, inner in value.items()}
        elif key == "oneOf" and (kinds := _kinds(value, known)):
            out |= _choice(kinds)
        elif key == "$ref":
            out[key] = value.replace("#/$defs/", f"#/definitions/{PREFIX}")
        elif key == "prefixItems":  # draft 7's word for it
            out["items"] = _plain(value, known)
        elif (key, value) == ("type", "number"):  # `--set learner.lr=1e-6` gives text
            out |= {"type": ["number", "string"], "pattern": NUMBER}
        elif key not in ("description", "title", "default", "discriminator"):
            out[key] = _plain(value, known)
    return out


def _kinds(members: list[Any], known: dict[str, Any]) -> dict[str, str]:
    """The definition behind each value of `kind` (a pattern), if that tells them apart."""
    found = {}
    for member in members:
        name = member.get("$ref", "").removeprefix("#/$defs/")
        kind = known.get(name, {}).get("properties", {}).get("kind")
        if kind is None:
            return {}
        found[kind.get("const", OWN_KIND)] = f"#/definitions/{PREFIX}{name}"
    return found


def _choice(kinds: dict[str, str]) -> dict[str, Any]:
    """One of several kinds, judged by the one that is named: so what is wrong is named, too."""
    fits = {kind: {"type": "string", "pattern": f"^({kind})$"} for kind in kinds}
    return {
        "type": "object",
        "properties": {"kind": {"type": "string", "pattern": f"^({'|'.join(kinds)})$"}},
        "allOf": [
            {
                "if": {"properties": {"kind": fits[kind]}, "required": ["kind"]},
                "then": {"$ref": definition},
            }
            for kind, definition in kinds.items()
        ],
    }


if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(schema(json.loads(SCHEMA.read_text())), indent=2) + "\n")
