"""The fields of a model's config.json: a directory's, a public model's that is known, the hub's."""

import json
from pathlib import Path
from typing import Any

from asyncds.launch.errors import UserError
from asyncds.plan.published import PUBLISHED

_HUB_SECONDS = 10


def read_model_config(model: str) -> tuple[dict[str, Any], str]:
    """The fields, and a sentence where they are not from a file of the model itself.

    Raises UserError where there are none.
    """
    directory = Path(model).expanduser()
    if directory.is_dir():
        return _read(model, directory / "config.json"), ""
    if (cached := _cached(model)) is not None:
        return _read(model, cached), ""
    if model in PUBLISHED:
        return dict(PUBLISHED[model]), f"the sizes of {model} are those it was published with"
    found, why = _from_hub(model)
    if found is None:
        raise UserError(
            f"model {model} is not a directory here, and its config.json can't be had ({why}): "
            "give a directory with a config.json; no weights are needed"
        )
    return _read(model, found), ""


def _read(model: str, file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(
            f"model {model} has no config.json: it is not a Hugging Face model directory"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"model {model}: config.json can't be read: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"model {model}: config.json does not hold an object")
    return fields


def _cached(model: str) -> Path | None:
    """The file in the hub's cache on this machine."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None  # a path
    return Path(found) if isinstance(found, str) else None


def _from_hub(model: str) -> tuple[Path | None, str]:
    """The file, fetched into the hub's cache; or why there is none."""
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    except ImportError:
        return None, "huggingface_hub is not installed"
    try:
        # Asked first, because a download is tried again for a minute.
        get_hf_file_metadata(hf_hub_url(model, "config.json"), timeout=_HUB_SECONDS)
        return Path(hf_hub_download(model, "config.json")), ""
    except Exception as error:  # whatever the HTTP library of the day raises: it is reported
        text = str(error).strip()
        return None, text.splitlines()[0] if text else type(error).__name__
