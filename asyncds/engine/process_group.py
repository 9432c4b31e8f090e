"""The learner's ranks as one torch.distributed group, with a deadline on every collective."""

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import deepspeed
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store, _set_pg_timeout

T = TypeVar("T")


def join(*, deadline_s: float) -> torch.device:
    """Join the group that torchrun's environment describes; without one, be a group of one rank.

    NCCL with CUDA, gloo without. A group that is already there is kept. Returns this rank's device.
    """
    cuda = torch.cuda.is_available()
    if not cuda:
        # Only DeepSpeed's tensor-parallel inference uses this operator, and it takes a C++ compiler
        # and half a minute to build; its waits also have no deadline.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deadline = timedelta(seconds=deadline_s)
    backend = "nccl" if cuda else "gloo"
    alone = "RANK" not in os.environ
    # DeepSpeed reads it. Nothing else is written there: what this process starts afterwards would
    # take itself for a rank of a group that nobody else is in.
    os.environ.setdefault("LOCAL_RANK", "0")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        lonely = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if alone else {}
        dist.init_process_group(backend, timeout=deadline, **lonely)
    deepspeed.init_distributed(
        backend, auto_mpi_discovery=False, verbose=False, timeout=deadline, dist_init_required=False
    )
    return device


def place() -> tuple[int, int]:
    """The rank of this process, and how many there are; (0, 1) where there is no group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gathered(value: T) -> list[T]:
    """The value of every rank, in their order. A collective."""
    _, ranks = place()
    values = [value] * ranks
    if ranks > 1:
        dist.all_gather_object(values, value)
    return values


class MeetingLateError(Exception):
    """A rank did not come in time; the message says which."""


class Meeting:
    """Exchanges small JSON values between threads of all ranks, while others use collectives.

    They go through the group's store, by a connection of their own.
    """

    def __init__(self) -> None:
        """A collective."""
        name = agree_on(uuid.uuid4().hex)
        self._rank, self._ranks = place()
        self._round = 0
        if self._ranks > 1:
            self._store = dist.PrefixStore(name, _get_default_store().clone())

    def gathered(self, value: T, *, seconds: float) -> list[T]:
        """The value of every rank, in their order; all of them call it.

        Raises MeetingLateError where one has not within `seconds`.
        """
        if self._ranks == 1:
            return [value]
        self._round += 1
        self._store.set(self._key(self._rank), json.dumps(value))
        keys = [self._key(rank) for rank in range(self._ranks)]
        try:
            self._store.wait(keys, timedelta(seconds=seconds))
        except dist.DistStoreError as error:
            late = [str(rank) for rank, key in enumerate(keys) if not self._store.check([key])]
            raise MeetingLateError(
                f"learner rank {', '.join(late)} did not come within {seconds:g} s"
            ) from error
        values = [json.loads(self._store.get(key)) for key in keys]
        # Who comes to a round has read all of the one before.
        self._store.delete_key(self._key(self._rank, self._round - 1))
        return values

    def _key(self, rank: int, round: int | None = None) -> str:
        return f"{self._round if round is None else round}/{rank}"


class Patience:
    """The deadline of the collectives of groups that exist, which may be longer for a while.

    DeepSpeed creates groups of its own with torch's 30 minutes.
    """

    def __init__(self, groups: Iterable[dist.ProcessGroup], *, usual_s: float) -> None:
        self._groups = [*groups]
        self._usual = usual_s
        self._set(usual_s)

    @contextmanager
    def longer(self, seconds: float) -> Iterator[None]:
        """Meanwhile collectives have so many seconds beside the usual ones."""
        self._set(self._usual + seconds)
        try:
            yield
        finally:
            self._set(self._usual)

    def _set(self, seconds: float) -> None:
        for group in self._groups:
            _set_pg_timeout(timedelta(seconds=seconds), group)


def agree_on(value: str) -> str:
    """Return rank 0's value, on every rank."""
    values = [value]
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]
