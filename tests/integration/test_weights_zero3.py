"""Staging from a model that DeepSpeed ZeRO-3 has partitioned over two ranks."""

import multiprocessing as mp
import os
import socket
from multiprocessing.connection import Connection

import pytest

pytestmark = pytest.mark.slow

TIMEOUT = 240.0
BUCKET_BYTES = 400
"""Less than the model, so that there are several gathers."""


def stage_on_a_rank(connection: Connection, rank: int, port: int) -> None:
    """Process: partition, stage, and answer with what is wrong."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    import deepspeed
    import torch
    import torch.distributed as dist
    from torch import nn

    from asyncds.engine.process_group import join
    from asyncds.weights import source
    from asyncds.weights.source import weight_specs
    from asyncds.weights.staging import StagedWeights
    from services.learner.shared_staging import shared_staging

    torch.set_num_threads(1)
    torch.manual_seed(0)
    join(deadline_s=60)
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10, bias=False))
    model[2].weight = model[0].weight
    expected = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    specs = weight_specs(model)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters()),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        },
    )
    wrong = []
    if any(parameter.numel() for parameter in model.parameters()):
        wrong.append("the model is not partitioned")
    if weight_specs(engine, prefix="module.") != specs:
        wrong.append("other specs than before partitioning")
    gathers: list[int] = []
    gathered = source._gathered
    source._gathered = lambda members: gathers.append(len(members)) or gathered(members)
    all_share = shared_staging(
        specs=specs, bucket_bytes=BUCKET_BYTES, rank=rank, ranks=2, pin=False
    )
    one_has_all = StagedWeights(
        specs=specs, bucket_bytes=BUCKET_BYTES, place=0 if rank == 0 else None
    )
    for staged in (all_share, one_has_all):
        for version in (1, 2):
            pieces = source.iterate_weights(
                engine,
                prefix="module.",
                gather_bytes=BUCKET_BYTES,
                place=staged.place,
                places=staged.places,
            )
            staged.copy(pieces, version=version)
            dist.barrier()
            staged.seal(version)
        if bool(gathers) == (staged is all_share):
            wrong.append(f"gathered {gathers}")
        got = dict(staged.tensors)
        if rank == 0 or staged is all_share:
            wrong += [name for name in expected if not torch.equal(got[name], expected[name])]
        elif got:
            wrong.append("rank 1 keeps a copy")
    if any(parameter.numel() for parameter in model.parameters()):
        wrong.append("gathered parameters were not given back")
    connection.send(wrong)


def test_staging_copies_the_partitions_of_zero3_or_gathers_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    pipes, processes = [], []
    for rank in range(2):
        ours, theirs = context.Pipe()
        process = context.Process(target=stage_on_a_rank, args=(theirs, rank, port), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        assert pipe.poll(TIMEOUT)
        assert pipe.recv() == []
    for process in processes:  # the answers are in; how torch's threads end is not the question
        process.join(TIMEOUT)
        assert process.exitcode is not None
