"""Checkpoints of a TrainingEngine: written whole or not at all, and verified before they are read.

``<root>/step-N/`` holds

    deepspeed/     what training continues from: DeepSpeed's own files, one or more per rank
    hf/            the weights as a Hugging Face directory: from_pretrained and vLLM load it
    manifest.json  sizes and SHA-256 of the files, and the caller's state

It is written under another name, flushed to disk and renamed, so that a directory called
``step-N`` is complete unless the disk lost something, which the manifest shows. All ranks write to
the same directory: on several nodes it must be on a shared file system. A rank hashes what
DeepSpeed writes there while it is written, and rank 0 the export, an eighth of all; before a
checkpoint is loaded, each rank reads its share of all files.
"""

import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import deepspeed
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers.utils import cached_file

from asyncds.engine.checkpoint_owner import PARTIAL, REPLACED, confirm, put_in_place
from asyncds.engine.hashes import Files, describe, differences, hashing, share, whole
from asyncds.engine.process_group import gathered, place
from asyncds.engine.training import TrainingEngine

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_DEEPSPEED, _HF = "deepspeed", "hf"
_TAG = "state"
_DAMAGED = "damaged-"
_SHARD = "5GB"
"""Files of the export are no larger, so that several are hashed at a time."""
_FULL_BYTES = 1 << 20
"""Free bytes below which a full disk is why writing failed."""
# Copied byte for byte, so that learner and generators can compare them.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message names the file or the setting."""


class NoRoomError(CheckpointError):
    """A checkpoint that was not written, because the disk is full; the message names it."""


def save(engine: TrainingEngine, directory: Path, *, state: Mapping[str, Any], owner: str) -> None:
    """Write a checkpoint, replacing one of the same name. A collective.

    state: what the caller wants back from ``load``; JSON. owner: who has taken over the directory
    above (``checkpoint_owner``).

    Raises NoRoomError on all ranks if there is less room than the checkpoint before it takes, or if
    any rank finds the disk full; what was begun is removed then, and what was there stays. A rank
    that finds it full while others wait for it inside DeepSpeed ends with them instead. Raises
    ReplacedError, on rank 0 at least, with which the others end, if there is another owner.
    """
    root = directory.parent
    partial = root / f"{PARTIAL}{directory.name}-{owner}"

    def begin() -> None:
        if engine.rank == 0:
            confirm(root, owner)
            shutil.rmtree(partial, ignore_errors=True)
            (partial / _HF).mkdir(parents=True)
            _look_for_room(root)

    written: Files = {}

    def write() -> None:
        with hashing(engine.deepspeed) as files:
            engine.deepspeed.save_checkpoint(
                str(partial / _DEEPSPEED),
                tag=_TAG,
                client_state={"torch_rng_state": torch.get_rng_state()},
                save_latest=False,
            )
        written.update({str(Path(name).relative_to(partial)): f for name, f in files.items()})
        export(engine, partial / _HF)

    def finish() -> None:
        everything = whole(gathered(written))
        if engine.rank == 0:
            files = _complete_files(partial, everything)
            manifest = {**_layout(engine), "state": dict(state), "files": files}
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
            _flush(partial)
            put_in_place(partial, directory, owner)

    for part in (begin, write, finish):
        problem = _together(part, root, owner)
        if problem:
            if engine.rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
            raise NoRoomError(
                f"the checkpoint {directory} was not written, because the disk is full "
                f"({problem}): make room; the one before it is kept"
            )


def export(engine: TrainingEngine, directory: Path) -> None:
    """Write the weights, configuration and tokenizer as a Hugging Face directory. A collective.

    Under ZeRO-3 one parameter is gathered at a time, and rank 0 keeps the only full copy.
    """
    weights = _full_weights(engine)
    if engine.rank == 0:
        engine.causal_lm.save_pretrained(directory, state_dict=weights, max_shard_size=_SHARD)
        for file in directory.glob("*.safetensors"):
            file.chmod(0o644)  # written for the owner alone; generators may run as another user
        _copy(engine.model_source, ("generation_config.json",), directory)
        _copy(engine.tokenizer_source, _TOKENIZER_FILES, directory)


def try_export(engine: TrainingEngine) -> None:
    """Write what is beside the weights of an export, and remove it.

    Raises CheckpointError: what the writer refuses is told before anything is trained.
    """
    with tempfile.TemporaryDirectory() as directory:
        try:
            engine.causal_lm.config.save_pretrained(directory)
            if engine.causal_lm.generation_config is not None:
                engine.causal_lm.generation_config.save_pretrained(directory)
        except Exception as error:  # whatever the library raises: it is reported
            why = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"the model {engine.model_source} could not be written to a checkpoint: {why}"
            ) from error


def _copy(source: str, names: Collection[str], directory: Path) -> None:
    """Copy files of a model or tokenizer byte for byte, as far as they are there."""
    for name in names:
        found = cached_file(
            source,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if found is not None:
            shutil.copyfile(found, directory / name)


def load(engine: TrainingEngine, directory: Path) -> dict[str, Any]:
    """Restore the engine from a checkpoint, and return the caller's state. A collective.

    The engine must be new (a ZeRO-3 engine that has trained cannot be loaded into), with the ranks,
    ZeRO stage and dtype of the one that saved. Files are taken as they are: ``newest`` or
    ``verify`` come first.

    Raises CheckpointError where it is of another layout, or DeepSpeed finds nothing.
    """
    manifest = _manifest(directory)
    for key, mine in _layout(engine).items():
        if manifest[key] != mine:
            raise CheckpointError(
                f"{directory} was saved with {key} = {manifest[key]}, this run has {mine}: "
                f"set it back, or start a new run from the model {directory / _HF}"
            )
    path, client = engine.deepspeed.load_checkpoint(str(directory / _DEEPSPEED), tag=_TAG)
    if path is None:
        raise CheckpointError(f"DeepSpeed found nothing to load in {directory / _DEEPSPEED}")
    torch.set_rng_state(client["torch_rng_state"])
    return manifest["state"]


def verify(directory: Path) -> dict[str, Any]:
    """Compare a checkpoint's files with its manifest: sizes and hashes, a piece at a time.

    Returns the manifest. Raises CheckpointError, naming every file that is missing or not whole.
    """
    manifest = _manifest(directory)
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
    for directory in reversed(gathered(_complete(root))[0]):
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
    older = [path for path in _complete(root)[:-keep_last] if path.name not in kept]
    for path in older:
        shutil.rmtree(path)
    for path in leftovers:  # of another owner, too, who may not know yet that it is none
        shutil.rmtree(path, ignore_errors=True)


def _together(action: Callable[[], None], root: Path, owner: str) -> str:
    """Do it on every rank; returns how the disk of `root` was full for one of them, or ""."""
    problem = ""
    try:
        action()
    except (OSError, RuntimeError, SafetensorError) as error:
        confirm(root, owner)  # another owner has taken away what was half written
        # The libraries tell a full disk each in its own words, if at all.
        missing = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not missing and shutil.disk_usage(_existing(root)).free > _FULL_BYTES:
            raise
        problem = " ".join((getattr(error, "strerror", None) or str(error)).split())[:200]
    return next(filter(None, gathered(problem)), "")


def _look_for_room(root: Path) -> None:
    """Raise OSError if there is less than the newest checkpoint takes."""
    if found := _complete(root):
        taken = sum(file["bytes"] for file in _manifest(found[-1])["files"].values())
        free = shutil.disk_usage(root).free
        if free < taken:
            raise OSError(
                errno.ENOSPC,
                f"{free / 1e6:,.0f} MB are free, {found[-1].name} takes {taken / 1e6:,.0f} MB",
            )


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _manifest(directory: Path) -> dict[str, Any]:
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
        files = _manifest(directory)["files"]
    except CheckpointError as error:
        return [str(error)]
    return differences(directory, share(files, rank=rank, ranks=ranks))


def _complete_files(partial: Path, written: Files) -> Files:
    """The entries of all files: those that ranks have written, and the others, which are read.

    Raises CheckpointError where a file of another rank is not here.
    """
    there = [path for path in sorted(partial.rglob("*")) if path.is_file()]
    names = {str(path.relative_to(partial)) for path in there}
    if missing := sorted(written.keys() - names):
        raise CheckpointError(
            f"{missing[0]} was written by another rank and is not in {partial}: give all ranks the "
            "same runs_dir, on a shared file system"
        )
    others = [path for path in there if str(path.relative_to(partial)) not in written]
    return dict(sorted({**written, **describe(others, below=partial)}.items()))


def _complete(root: Path) -> list[Path]:
    found = {
        int(number): path.parent
        for path in root.glob(f"step-*/{MANIFEST}")
        if (number := path.parent.name.removeprefix("step-")).isdigit()
    }
    return [found[number] for number in sorted(found)]


def _layout(engine: TrainingEngine) -> dict[str, Any]:
    return {"ranks": engine.ranks, "zero_stage": engine.zero_stage, "dtype": engine.dtype}


def _full_weights(engine: TrainingEngine) -> dict[str, Tensor]:
    if engine.zero_stage < 3:
        return engine.causal_lm.state_dict()
    weights = dict(engine.causal_lm.named_buffers())
    persistent = engine.causal_lm.state_dict().keys()
    weights = {name: buffer for name, buffer in weights.items() if name in persistent}
    for name, parameter in engine.causal_lm.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if engine.rank == 0:
                # Copied: the gathered memory is freed on leaving.
                weights[name] = parameter.detach().to("cpu", copy=True)
    return weights


def _flush(directory: Path) -> None:
    """Bring every file and directory entry below (and including) ``directory`` to the disk."""
    for path in (*directory.rglob("*"), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
