"""The owner of a run's checkpoints: the worker group that has looked for them last writes them.

Two are alive at once where another takes the place of one that is still leaving, or that was only
cut off. Whoever comes writes its name into ``owner``, takes away what is half written, and looks
only then for the newest checkpoint. The other one reads ``owner`` right before it puts a checkpoint
in place. A rename is whole or not at all: either the newcomer sees that checkpoint, or it is never
there, so that nobody finds one later that is not of the steps that were trained since.
"""

import os
import shutil
from pathlib import Path

PARTIAL, REPLACED = ".partial-", ".replaced-"
_OWNER = "owner"


class ReplacedError(Exception):
    """Another worker group has taken over the run's checkpoints."""

    def __init__(self, root: Path) -> None:
        super().__init__(
            f"another learner has taken over {root}: nothing more is written there; it goes on "
            "from the newest checkpoint"
        )


def take_over(root: Path, owner: str) -> None:
    """Keep all others from writing checkpoints from now on. To be called before one is looked for.

    owner: a name that nobody had before.
    """
    root.mkdir(parents=True, exist_ok=True)
    written = root / f"{REPLACED}{_OWNER}-{owner}"
    with written.open("w") as file:
        file.write(owner)
        file.flush()
        os.fsync(file.fileno())
    written.replace(root / _OWNER)
    for partial in root.glob(f"{PARTIAL}*"):
        aside = partial.with_name(f"{REPLACED}{partial.name}-{owner}")
        try:
            partial.rename(aside)  # at once, unlike its removal
        except FileNotFoundError:
            continue  # it was put in place, or its writer has given up
        shutil.rmtree(aside, ignore_errors=True)


def confirm(root: Path, owner: str) -> None:
    """Raise ReplacedError if there is another owner by now."""
    try:
        found = (root / _OWNER).read_text()
    except FileNotFoundError:
        found = ""
    if found != owner:
        raise ReplacedError(root)


def put_in_place(partial: Path, directory: Path, owner: str) -> None:
    """Give a checkpoint its name, on the disk too, in place of one of the same name.

    Raises ReplacedError, also where another owner has just taken it away.
    """
    confirm(directory.parent, owner)
    replaced = directory.with_name(REPLACED + directory.name)
    if directory.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        directory.rename(replaced)
    try:
        partial.rename(directory)
    except FileNotFoundError:
        if replaced.exists():
            replaced.rename(directory)
        raise ReplacedError(directory.parent) from None
    descriptor = os.open(directory.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    shutil.rmtree(replaced, ignore_errors=True)
