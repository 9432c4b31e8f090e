"""The learner's ranks as one torch.distributed group, with a deadline on every collective."""

import os
from collections.abc import Iterable
from datetime import timedelta

import deepspeed
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout


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
    if alone:
        # DeepSpeed reads these itself.
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
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


def set_deadline(groups: Iterable[dist.ProcessGroup], *, deadline_s: float) -> None:
    """Set the deadline of groups that exist; DeepSpeed creates its own with torch's 30 minutes."""
    for group in groups:
        _set_pg_timeout(timedelta(seconds=deadline_s), group)
