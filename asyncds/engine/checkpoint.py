"""Checkpoints of a TrainingEngine, as they are found: verified before they are read.

``<root>/step-N/`` holds

    deepspeed/     what training continues from: DeepSpeed's own files, one or more per rank
    hf/            the weights as a Hugging Face directory: from_pretrained and vLLM load it. Of
                   LoRA: the adapter as PEFT's files
    manifest.json  sizes and SHA-256 of the files, and the caller's state

A directory called ``step-N`` is complete (``checkpoint_writer``) unless the disk lost something.
The manifest shows it: before a checkpoint is loaded, each rank reads its share of all files.
"""

import json
import logging
import shutil
from collections.abc import Collection
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from asyncds.engine.checkpoint_copy import DEEPSPEED, HF, TAG
from asyncds.engine.checkpoint_owner import PARTIAL, REPLACED
from asyncds.engine.hashes import differences, share
from asyncds.engine.process_group import gathered, place
from asyncds.engine.training import TrainingEngine

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_DAMAGED = "damaged-"
ADAPTER_LAYOUT = ("r", "lora_alpha", "use_rslora", "target_modules")
"""The entries of an adapter's configuration that it can't be used without."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message names the file or the setting."""


def load(engine: TrainingEngine, directory: Path) -> dict[str, Any]:
    """Restore the engine from a checkpoint, and return the caller's state. A collective.

    The engine must be new (a ZeRO-3 engine that has trained cannot be loaded into), with the ranks,
    ZeRO stage and dtype of the one that saved. Files are taken as they are: ``newest`` or
    ``verify`` come first.

    Raises CheckpointError where it is of another layout, or DeepSpeed finds nothing.
    """
    manifest = manifest_of(directory)
    for key, mine in layout(engine).items():
        if manifest.get(key) != mine:
            exported = "that `asyncds export` makes of it"
            raise CheckpointError(
                f"{directory} was saved with {key} = {manifest.get(key)}, this run has {mine}: "
                "set it back, or start a new run from the model "
                f"{exported if manifest.get('lora') else directory / HF}"
            )
    path, client = engine.deepspeed.load_checkpoint(
        str(directory / DEEPSPEED), tag=TAG, load_module_strict=engine.adapter is None
    )
    if path is None:
        raise CheckpointError(f"DeepSpeed found nothing to load in {directory / DEEPSPEED}")
    torch.set_rng_state(client["torch_rng_state"])
    return manifest["state"]


def verify(directory: Path) -> dict[str, Any]:
    """Compare a checkpoint's files with its manifest: sizes and hashes, a piece at a time.

    Returns the manifest. Raises CheckpointError, naming every file that is missing or not whole.
    """
    manifest = manifest_of(directory)
    if problems := differences(directory, manifest["files"]):
        raise CheckpointError(f"{directory}: " + "; ".join(problems))
    return manifest


def newest(root: Path) -> Path | None:
    """The checkpoint ``step-N`` with the largest N that is whole, or None without any.

    A collective, where there are several ranks: each reads its share of a checkpoint. Newer ones
    that are damaged are named in the log and set aside as ``damaged-step-N``, so that ``prune``
    keeps none of them in place of a good one. No save may be in progress. Raises CheckpointError,
    on all ranks, if there are checkpoints and all are damaged.
    """
    damaged: dict[Path, str] = {}
    rank, _ = place()
    for directory in reversed(gathered(complete(root))[0]):
        if problem := "; ".join(chain.from_iterable(gathered(_problems_here(directory)))):
            damaged[directory] = f"{directory}: {problem}"
            continue
        for bad, problem in damaged.items() if rank == 0 else ():
            aside = bad.with_name(_DAMAGED + bad.name)
            shutil.rmtree(aside, ignore_errors=True)
            bad.rename(aside)
            log.error("%s. It is now %s; starting from %s", problem, aside.name, directory.name)
        return directory
    if damaged:
        raise CheckpointError(
            f"no checkpoint is whole: {'. '.join(damaged.values())}. Put a good copy in place, or "
            f"move {root} away to start from the base model"
        )
    return None


def prune(root: Path, *, keep_last: int, keep: Collection[int] = ()) -> None:
    """Remove checkpoints but the last ``keep_last`` and those of the steps ``keep``.

    What interrupted saves left behind goes too. To be called by one process, with no save in
    progress. Raises ValueError for keep_last < 1.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last = {keep_last}: choose at least 1")
    leftovers = [path for mark in (PARTIAL, REPLACED) for path in root.glob(f"{mark}*")]
    kept = {f"step-{step}" for step in keep}
    older = [path for path in complete(root)[:-keep_last] if path.name not in kept]
    for path in older:
        shutil.rmtree(path)
    for path in leftovers:  # of another owner, too, who may not know yet that it is none
        shutil.rmtree(path, ignore_errors=True)


def manifest_of(directory: Path) -> dict[str, Any]:
    """The manifest of a checkpoint. Raises CheckpointError where there is none that can be read."""
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
        if not {"files", "state"} <= manifest.keys():
            raise ValueError(f"{MANIFEST} lacks entries")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{directory} is not a checkpoint: {error}") from error
    return manifest


def _problems_here(directory: Path) -> list[str]:
    """The faults of this rank's share of a checkpoint, a sentence each."""
    rank, ranks = place()
    try:
        files = manifest_of(directory)["files"]
    except CheckpointError as error:
        return [str(error)]
    return differences(directory, share(files, rank=rank, ranks=ranks))


def complete(root: Path) -> list[Path]:
    """The checkpoints that have a manifest, by their steps."""
    found = {
        int(number): path.parent
        for path in root.glob(f"step-*/{MANIFEST}")
        if (number := path.parent.name.removeprefix("step-")).isdigit()
    }
    return [found[number] for number in sorted(found)]


def layout(engine: TrainingEngine) -> dict[str, Any]:
    """The properties that an engine must share with a checkpoint to go on from it."""
    adapter = engine.adapter or {}
    return {
        "ranks": engine.ranks,
        "zero_stage": engine.zero_stage,
        "dtype": engine.dtype,
        "lora": {key: adapter[key] for key in ADAPTER_LAYOUT} if adapter else None,
    }
