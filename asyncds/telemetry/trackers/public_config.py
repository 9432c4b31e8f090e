"""A run's configuration as others may see it."""

import re
from typing import Any

from asyncds.config.schema import RunConfig

HIDDEN = "(hidden)"
_SECRET = re.compile(r"(^|_)(token|secret|password|passwd|api_?key|credentials?|public)$", re.I)
"""Names of texts: `hf_token`, but not `max_tokens`. Keys' files are nobody's business either."""
_USER = re.compile(r"(?<=://)[^/@\s]+@")


def public_config(config: RunConfig) -> dict[str, Any]:
    """Every value, defaults too, as plain values.

    Those whose name says that they are secret are hidden, and so are user names and passwords in
    addresses.
    """
    hidden: dict[str, Any] = without_secrets(config.model_dump(mode="json"))
    return hidden


def without_secrets(value: Any, key: str = "") -> Any:
    """Plain values in which what is secret is hidden. key: the value's name, if it has one."""
    if isinstance(value, str | list) and _SECRET.search(key):
        return HIDDEN
    if isinstance(value, dict):
        return {k: without_secrets(v, str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [without_secrets(v) for v in value]
    return _USER.sub("", value) if isinstance(value, str) else value
