"""Where a person's own modules are found: in the directory that a command was started from."""

import os
import sys

DIRECTORY = "ASYNCDS_CODE"
"""The environment variable that names the directory; by default the working directory."""


def find_user_code() -> None:
    """Let this process, and those that it starts, import the user's modules.

    They are in the user's directory, which comes after all that is installed. Every process of
    asyncds calls this first.

    `python -m` would put the working directory first instead, where a `services` package or a
    `random.py` of the user's would hide what is installed.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    directory = os.environ.setdefault(DIRECTORY, os.getcwd())
    if directory not in sys.path:
        sys.path.append(directory)
