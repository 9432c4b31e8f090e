"""Real DeepSpeed in real processes: the same batch gives the same gradient, however it is split."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from asyncds.config.engines import LearnerConfig
from asyncds.engine.checkpoint import CheckpointError, verify
from asyncds.tiny.model import save_untrained
from tests.integration.training_worker import PROBE, make_batch, reference_for, token_loss
from tests.support.small_disk import small_disk

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("training_worker.py")
STAGES = (0, 1, 2, 3)
# One sequence at a time; a few; all at once.
BUDGETS = (1, 50, 4096)
# A model this small would otherwise not be partitioned at all.
PARTITION_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}


@dataclass(frozen=True)
class Results:
    """What ``ranks`` processes wrote to ``out``: called with a job's name, one dict per rank."""

    ranks: int
    out: Path

    def __call__(self, name: str) -> list[dict[str, Any]]:
        return [dict(np.load(self.out / f"{name}-{rank}.npz")) for rank in range(self.ranks)]


def launch(ranks: int, jobs: list[dict[str, Any]], out: Path, *, worker: Path = WORKER) -> Results:
    """Run jobs on so many ranks."""
    out.mkdir()
    (out / "jobs.json").write_text(json.dumps(jobs))
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    finished = subprocess.run(
        [*launcher, str(worker), str(out / "jobs.json"), str(out)],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(WORKER.parents[2]),
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-8000:]
    return Results(ranks, out)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    save_untrained(root / "tied", seed=0)
    torch.manual_seed(0)
    untied = LlamaConfig(
        vocab_size=110,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.1,
    )
    LlamaForCausalLM(untied).save_pretrained(root / "untied")
    return {"tied": root / "tied", "untied": root / "untied"}


def update_jobs(models: dict[str, Path]) -> list[dict[str, Any]]:
    variants: dict[str, dict[str, Any]] = {
        f"zero{stage}-budget{budget}": {"zero_stage": stage, "micro_batch_tokens": budget}
        for stage in STAGES
        for budget in BUDGETS
    }
    for stage in (1, 3):
        variants[f"zero{stage}-recomputed"] = {
            "zero_stage": stage,
            "micro_batch_tokens": 50,
            "gradient_checkpointing": True,
            "logprob_chunk_tokens": 3,
        }
        variants[f"zero{stage}-untied"] = {
            "model": str(models["untied"]),
            "zero_stage": stage,
            "micro_batch_tokens": 50,
            "logprob_chunk_tokens": 3,
        }
    for stage in (1, 2, 3):
        variants[f"zero{stage}-bfloat16"] = {
            "zero_stage": stage,
            "micro_batch_tokens": 50,
            "dtype": "bfloat16",
        }
    return [
        job("update", name, models, max_grad_norm=0.0, **options)
        for name, options in variants.items()
    ]


def job(do: str, name: str, models: dict[str, Path], **options: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"deepspeed": PARTITION_ALL}
    arguments: dict[str, Any] = {"model": str(models["tied"]), "total_steps": 0}
    for key, value in options.items():
        (settings if key in LearnerConfig.model_fields else arguments)[key] = value
    return {"name": name, "do": do, "settings": settings, "engine": arguments}


@pytest.fixture(scope="module", params=[1, 2], ids=["1-rank", "2-ranks"])
def results(
    request: pytest.FixtureRequest,
    models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Results:
    jobs = update_jobs(models)
    jobs += [job("minibatches", f"minibatches{s}", models, zero_stage=s) for s in STAGES]
    jobs += [job("poison", f"raise{s}", models, zero_stage=s) for s in STAGES]
    jobs += [
        job("reference", f"reference{s}", models, zero_stage=s, reference_model=str(models["tied"]))
        for s in (1, 3)
    ]
    measured = {"wall_clock_breakdown": True, **PARTITION_ALL}
    jobs += [job("timers", "not-timed", models, zero_stage=1)]
    jobs += [job("timers", f"timers{s}", models, zero_stage=s, deepspeed=measured) for s in STAGES]
    root = tmp_path_factory.mktemp("updates")
    if request.param == 1:
        replaced = job("save_replaced", "replaced", models, zero_stage=1)
        jobs.append({**replaced, "directory": str(root / "replaced")})
    if request.param == 2:
        jobs += checkpoint_jobs("save", models, root)
        held = job("save_without_memory", "held", models, zero_stage=1)
        jobs.append({**held, "directory": str(root / "held")})
        # Last, since the group is of no use afterwards.
        lonely = job("deadline", "deadline", models, zero_stage=3, collective_seconds=3)
        jobs.append({**lonely, "directory": str(root / "given-up")})
    return launch(request.param, jobs, root / "out")


def checkpoint_jobs(do: str, models: dict[str, Path], root: Path) -> list[dict[str, Any]]:
    schedule = {"lr_schedule": "linear", "warmup_steps": 1, "total_steps": 5}
    return [
        {
            **job(do, f"{do}{stage}", models, zero_stage=stage, **schedule),
            "directory": str(root / f"zero{stage}" / "step-1"),
        }
        for stage in STAGES
    ]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_checkpoint_that_there_is_no_room_for(
    models: dict[str, Path], tmp_path: Path, ranks: int
) -> None:
    """Known from the one before it; or noticed while it is written, early or late."""
    cases = {"known": (0.9, False)} | (
        {"none": (0.0, True), "some": (0.3, True), "nearly": (0.97, True)} if ranks == 1 else {}
    )
    with small_disk(tmp_path / "disk", mebibytes=64) as disk:
        jobs = [
            job("save_without_room", name, models, zero_stage=1)
            | {"directory": str(disk.path / name / "c"), "share": share, "first": first}
            for name, (share, first) in cases.items()
        ]
        results = launch(ranks, jobs, tmp_path / "out")
        for name, (_, first) in cases.items():
            root = disk.path / name / "c"
            for seen in results(name):
                assert f"{root / 'step-2'} was not written, because the disk" in str(seen["error"])
                assert ("step-1 takes" in str(seen["error"])) == (not first)
                assert seen["left"].tolist() == ([] if first else ["step-1"])
                assert str(seen["before"]) == str(None if first else root / "step-1")
                assert str(seen["after"]) == str(root / "step-2")


def test_deepspeeds_own_timers_where_it_measures(results: Results) -> None:
    """Seconds of both updates: no more than passes between the same two moments by our clock."""
    names = {"fwd", "bwd", "bwd_inner", "bwd_allreduce", "step"}
    for stage in STAGES:
        for seen in results(f"timers{stage}"):
            timers = {k.removeprefix("theirs/"): v for k, v in seen.items() if "theirs/" in k}
            assert timers.keys() == names
            assert 0 < timers["bwd_inner"] <= timers["bwd"] <= 1.1 * seen["ours/backward"]
            assert 0 < timers["step"] <= 1.1 * seen["ours/step"]
            assert timers["fwd"] > 0
    for seen in results("not-timed"):
        assert not [name for name in seen if name.startswith("theirs/")]


def plain_gradients(model: Path) -> dict[str, Any]:
    """The same update by autograd alone: one sequence at a time, in one process, in float64.

    A loss is computed for every token, and that of given ones is multiplied by 0.
    """
    causal_lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    batch = make_batch(ranks=1)
    total = torch.zeros((), dtype=torch.float64)
    for i, (prompt, completion) in enumerate(zip(batch.prompts, batch.completions, strict=True)):
        ids = torch.from_numpy(np.concatenate([prompt, completion])).long()[None]
        log_p = causal_lm(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(1)
        log_probs = log_p.gather(1, ids[0, len(prompt) :, None]).squeeze(1)
        reference = -(4.0 + torch.from_numpy(completion) / 50)
        losses = token_loss(
            torch.tensor(batch.table.reward[i]),
            log_probs,
            -(log_p.exp() * log_p).sum(1),
            log_probs.detach(),
            reference,
        )
        total = total + (losses * torch.from_numpy(batch.sampled[i])).sum()
    loss = total / sum(int(mask.sum()) for mask in batch.sampled)
    loss.backward()
    gradients = {name: p.grad.numpy() for name, p in causal_lm.named_parameters()}
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    return {"gradients": gradients, "norm": norm, "loss": loss.item()}


@pytest.fixture(scope="module")
def plain(models: dict[str, Path]) -> dict[str, dict[str, Any]]:
    return {name: plain_gradients(path) for name, path in models.items()}


def test_the_gradient_is_that_of_plain_autograd(
    results: Results, plain: dict[str, dict[str, Any]], models: dict[str, Path]
) -> None:
    for name, engine in ((j["name"], j["engine"]) for j in update_jobs(models)):
        expected = plain["untied" if "untied" in name else "tied"]
        low = engine.get("dtype") == "bfloat16"
        for result in results(name):
            gradients = {k[5:]: v for k, v in result.items() if k.startswith("grad/")}
            assert gradients.keys() == expected["gradients"].keys()
            for parameter, theirs in expected["gradients"].items():
                error = np.linalg.norm(gradients[parameter].reshape(theirs.shape) - theirs)
                allowed = (0.1 if low else 1e-5) * np.linalg.norm(theirs)
                assert error <= allowed, f"{name}: {parameter}"
            np.testing.assert_allclose(
                result["grad_norm"], expected["norm"], rtol=0.02 if low else 1e-5, err_msg=name
            )
            np.testing.assert_allclose(
                [result["loss"], result["mean_loss"]], expected["loss"], rtol=0.02 if low else 1e-5
            )
            sampled, length = (make_batch(ranks=1).table.sampled, make_batch(ranks=1).table.length)
            assert result["tokens"] == sampled.sum() < length.sum()
            assert result["clipped"] == 0, "there is no limit"


def test_the_step_is_the_same_and_changes_the_policy(
    results: Results, models: dict[str, Path]
) -> None:
    expected = results("zero0-budget4096")[0]["probe"]
    ids = torch.from_numpy(PROBE).long()[None]
    with torch.no_grad():
        untrained = AutoModelForCausalLM.from_pretrained(models["tied"])(input_ids=ids).logits
    before = untrained[0, :-1].log_softmax(1).gather(1, ids[0, 1:, None]).squeeze(1).numpy()
    assert abs(expected - before).max() > 0.01
    for name in (f"zero{s}-budget{b}" for s in STAGES for b in BUDGETS):
        for result in results(name):
            np.testing.assert_allclose(result["probe"], expected, atol=2e-4, err_msg=name)


def test_micro_batch_sizes_really_differ(results: Results) -> None:
    for stage in STAGES:
        counts = [results(f"zero{stage}-budget{b}")[0]["micro_batches"] for b in BUDGETS]
        assert counts[0] > counts[1] > counts[2] == 1


def test_log_probs_are_the_models_own(results: Results, models: dict[str, Path]) -> None:
    causal_lm = AutoModelForCausalLM.from_pretrained(models["tied"])
    batch = make_batch(ranks=results.ranks)
    for rank, result in enumerate(results("zero3-budget50")):
        expected = []
        for sequence in np.flatnonzero(batch.table.rank == rank):
            prompt, completion = batch.prompts[sequence], batch.completions[sequence]
            ids = torch.from_numpy(np.concatenate([prompt, completion])).long()[None]
            with torch.no_grad():
                log_p = causal_lm(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(1)
            log_probs = log_p.gather(1, ids[0, len(prompt) :, None]).squeeze(1).numpy()
            expected.append(log_probs[batch.sampled[sequence]])
        np.testing.assert_allclose(result["log_probs"], np.concatenate(expected), atol=1e-5)
        assert len(reference_for(batch.shard(rank))) == len(result["log_probs"])


def test_minibatches_are_optimizer_steps(results: Results) -> None:
    """Also where a rank owns nothing of an update."""
    expected = results("minibatches0")[0]
    for stage in STAGES:
        for result in results(f"minibatches{stage}"):
            assert result["steps"] == 4
            np.testing.assert_allclose(result["probe"], expected["probe"], atol=1e-3)
            assert (result["clipped"] > 0) == (result["grad_norm"] > 1)
            assert result["clipped"] in (0, 0.25, 0.5, 0.75, 1)


@pytest.mark.parametrize("stage", STAGES)
def test_a_gradient_of_nan_changes_nothing(results: Results, stage: int) -> None:
    for result in results(f"raise{stage}"):
        assert "step 7: the gradient is not finite" in str(result["error"])
        assert result["untouched"]
        assert (result["steps_before"], result["steps"]) == (0, 1)
        assert result["learned"], "a later update still works"


@pytest.mark.parametrize("stage", [1, 3])
def test_the_reference_does_not_train(results: Results, stage: int) -> None:
    for result in results(f"reference{stage}"):
        np.testing.assert_allclose(result["reference"], result["policy_before"], atol=1e-6)
        if len(result["policy"]):
            assert abs(result["policy"] - result["reference"]).max() > 1e-3


@pytest.mark.parametrize("results", [2], indirect=True, ids=["2-ranks"])
def test_a_rank_that_stays_away_is_an_error_for_the_others(results: Results) -> None:
    assert "Timed out" in str(results("deadline")[0]["error"])


@pytest.mark.parametrize("results", [1], indirect=True, ids=["1-rank"])
def test_no_checkpoint_comes_of_a_worker_group_that_was_replaced(results: Results) -> None:
    (seen,) = results("replaced")
    assert "another learner has taken over" in str(seen["error"])
    assert str(seen["newest"]) == "None"


@pytest.mark.parametrize("results", [2], indirect=True, ids=["2-ranks"])
def test_training_waits_where_there_is_no_memory_for_a_copy(results: Results) -> None:
    assert all(seen["written"] for seen in results("held"))


@pytest.mark.parametrize("results", [2], indirect=True, ids=["2-ranks"])
def test_a_checkpoint_continues_in_a_new_process(
    results: Results, models: dict[str, Path], tmp_path: Path
) -> None:
    root = results.out.parent
    loaded = launch(2, checkpoint_jobs("load", models, root), tmp_path / "load")
    for stage in STAGES:
        checkpoint = root / f"zero{stage}" / "step-1"
        for before, after in zip(results(f"save{stage}"), loaded(f"load{stage}"), strict=True):
            assert before["early"], "training went on before anything was written"
            assert (after["version"], after["steps"]) == (5, 1)
            assert after["lr"] == before["lr"] == 1e-3
            np.testing.assert_array_equal(after["loaded"], before["exported"])
            np.testing.assert_array_equal(after["probe"], before["probe"])
        files = verify(checkpoint)["files"]
        written = {name for name in files if name.endswith(".pt")}
        assert len(written) >= (1 if stage == 0 else 2), "each rank's part"
        read, nothing = (list(saved["read"]) for saved in results(f"save{stage}"))
        assert nothing == []
        assert written.isdisjoint(read), "what is hashed while it is written is not read again"
        assert set(read) == files.keys() - written

        exported = AutoModelForCausalLM.from_pretrained(checkpoint / "hf")
        ids = torch.from_numpy(PROBE).long()[None]
        with torch.no_grad():
            log_p = exported(input_ids=ids[:, :-1]).logits[0].log_softmax(1)
        np.testing.assert_allclose(
            log_p.gather(1, ids[0, 1:, None]).squeeze(1).numpy(), before["exported"], atol=1e-5
        )
        tokenizer = (models["tied"] / "tokenizer.json").read_bytes()
        assert (checkpoint / "hf" / "tokenizer.json").read_bytes() == tokenizer

    victim = next((root / "zero3" / "step-1" / "deepspeed").rglob("*optim_states.pt"))
    os.truncate(victim, victim.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=victim.name):
        verify(root / "zero3" / "step-1")
