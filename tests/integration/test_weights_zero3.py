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
    from torch import nn

    from asyncds.engine.process_group import join
    from asyncds.weights.buckets import unpack
    from asyncds.weights.source import iterate_weights, weight_specs
    from asyncds.weights.staging import StagedWeights

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
    staged = StagedWeights(specs=specs, bucket_bytes=BUCKET_BYTES, keep=rank == 0)
    for version in (1, 2):
        staged.stage(
            iterate_weights(engine, prefix="module.", gather_bytes=BUCKET_BYTES), version=version
        )
    if any(parameter.numel() for parameter in model.parameters()):
        wrong.append("gathered parameters were not given back")
    got = {
        name: tensor
        for bucket, flat in zip(staged.buckets, staged.flats, strict=rank == 0)
        for name, tensor in unpack(bucket, flat)
    }
    if rank == 0:
        wrong += [name for name in expected if not torch.equal(got[name], expected[name])]
    elif got:
        wrong.append("rank 1 keeps a copy")
    connection.send((len(staged.buckets), wrong))


def test_staging_gathers_what_zero3_has_partitioned() -> None:
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
        n_buckets, wrong = pipe.recv()
        assert wrong == []
        assert n_buckets > 1
    for process in processes:  # the answers are in; how torch's threads end is not the question
        process.join(TIMEOUT)
        assert process.exitcode is not None
