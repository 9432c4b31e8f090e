"""A run's configuration as others may see it."""

import re
from typing import Any

from asyncds.config.schema import RunConfig

HIDDEN = "(hidden)"
_SECRET = re.compile(r"(^|_)(token|secret|password|passwd|api_?key|credentials?|public)$", re.I)
"""Names of values: `hf_token`, but not `max_tokens`. Keys' files are nobody's business either."""
_USER = re.compile(r"(?<=://)[^/@\s]+@")


def public_config(config: RunConfig) -> dict[str, Any]:
    """Every value, defaults too, as plain values.

    Those whose name says that they are secret are hidden, and so are user names and passwords in
    addresses.
    """
    hidden: dict[str, Any] = _hide(config.model_dump(mode="json"))
    return hidden


def _hide(value: Any, key: str = "") -> Any:
    if value is not None and not isinstance(value, dict) and _SECRET.search(key):
        return HIDDEN
    if isinstance(value, dict):
        return {k: _hide(v, str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_hide(v) for v in value]
    return _USER.sub("", value) if isinstance(value, str) else value
