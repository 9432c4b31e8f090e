"""What test_lora.py runs on every rank: ``lora_worker.py JOBS.json OUT``.

A job is {"name", "settings": of the learner, "model", "dtype", "directory"}; each writes
OUT/<name>-<rank>.npz.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asyncds.config.engines import LearnerConfig
from asyncds.engine import checkpoint
from asyncds.engine.training import TrainingEngine
from asyncds.weights.source import iterate_weights, weight_specs
from asyncds.weights.staging import StagedWeights
from tests.integration.training_worker import PROBE, Objective, _save, _take_over, make_batch


def step(engine: TrainingEngine) -> None:
    batch = make_batch(ranks=engine.ranks)
    shard = batch.shard(engine.rank)
    engine.update(
        shard,
        Objective(batch.table),
        old_log_probs=engine.log_probs(shard),
        reference_log_probs=engine.reference_log_probs(shard),
        with_entropy=True,
    )


def published(engine: TrainingEngine, *, adapter: bool, alone: bool) -> dict[str, Any]:
    """What this rank has copied of a version, zeros elsewhere. alone: rank 0 copies all."""
    place, places = (engine.rank, engine.ranks) if not alone else (None, 1)
    if alone and engine.rank == 0:
        place = 0
    model = engine.causal_lm
    staged = StagedWeights(
        specs=weight_specs(model, adapter=adapter), bucket_bytes=2**16, place=place, places=places
    )
    source = iterate_weights(model, adapter=adapter, gather_bytes=2**16, place=place, places=places)
    staged.copy(source, version=1)
    return {name: tensor.float().numpy() for name, tensor in staged.tensors}


def main() -> None:
    torch.set_num_threads(1)
    jobs, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    for job in jobs:

        def made(job: dict[str, Any] = job) -> TrainingEngine:
            settings = LearnerConfig(**{"lr": 1e-2, "collective_seconds": 60, **job["settings"]})
            return TrainingEngine(
                settings,
                model=job["model"],
                dtype=job["dtype"],
                temperature=1.0,
                total_steps=0,
                seed=0,
                reference_model=job["model"],
            )

        engine = made()
        shard = make_batch(ranks=engine.ranks).shard(engine.rank)
        root = Path(job["directory"])
        _take_over(engine, root)
        found: dict[str, Any] = {"base": engine.probe(PROBE), "before": engine.log_probs(shard)}
        step(engine)
        step(engine)
        found |= {
            "size": engine.size,
            "probe": engine.probe(PROBE),
            "reference": engine.reference_log_probs(shard),
            "problem": _save(engine, root, 2),
        }
        for kind in ("adapter", "merge"):
            for alone in (False, True):
                tensors = published(engine, adapter=kind == "adapter", alone=alone)
                found |= {f"{kind}-{alone}/{name}": value for name, value in tensors.items()}
        step(engine)
        found["next"] = engine.probe(PROBE)
        engine.close()
        again = made()
        checkpoint.load(again, root / "step-2")
        found["loaded"] = again.probe(PROBE)
        step(again)
        found["again"] = again.probe(PROBE)
        again.close()
        np.savez(out / f"{job['name']}-{again.rank}.npz", **found)


if __name__ == "__main__":
    main()
