"""The start of one role's process from a command line."""

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from asyncds.config.load import ConfigError, load_config
from services.process import BAD_INPUT, end_with_parent


def run_role(role: str, arguments: Sequence[str], **options: Any) -> int:
    """Load `CONFIG [key=value …]` and run a role's `main`. Returns the exit code.

    Only the role's own modules are imported: the coordinator starts without torch.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun gives every rank a session of its own, where whoever ends torchrun misses it.
        end_with_parent()
    config_file, *overrides = arguments
    try:
        config = load_config(Path(config_file), overrides)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    code: int = role_module(role).main(config, **options)
    return code


def role_module(role: str) -> ModuleType:
    """Import `services.ROLE.main`.

    Without garbage collections: modules are no garbage, and to look through those of torch and
    vLLM again and again is an eighth of the time that their import takes.
    """
    gc.disable()
    try:
        return importlib.import_module(f"services.{role}.main")
    finally:
        gc.enable()
