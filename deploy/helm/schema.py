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
PREFIX = "config."
"""What the names of the configuration's definitions begin with, among the chart's own."""


def schema(chart: dict[str, Any]) -> dict[str, Any]:
    """The chart's schema with the configuration's as it is now."""
    config = _plain(RunConfig.model_json_schema())
    definitions = {k: v for k, v in chart["definitions"].items() if not k.startswith(PREFIX)}
    definitions |= {f"{PREFIX}{k}": v for k, v in config.pop("$defs").items()}
    return {
        **chart,
        "properties": {**chart["properties"], "config": config},
        "definitions": definitions,
    }


def _plain(node: Any) -> Any:
    """What Helm's validator needs of a schema: no texts, no defaults, references to where it is."""
    if isinstance(node, list):
        return [_plain(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    out = {}
    for key, value in node.items():
        if key in ("properties", "$defs"):
            out[key] = {name: _plain(inner) for name, inner in value.items()}
        elif key == "$ref":
            out[key] = value.replace("#/$defs/", f"#/definitions/{PREFIX}")
        elif key == "prefixItems":  # draft 7's word for it
            out["items"] = _plain(value)
        elif (key, value) == ("type", "number"):  # `--set learner.lr=1e-6` gives text
            out |= {"type": ["number", "string"], "pattern": NUMBER}
        elif key not in ("description", "title", "default", "discriminator"):
            out[key] = _plain(value)
    return out


if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(schema(json.loads(SCHEMA.read_text())), indent=2) + "\n")
