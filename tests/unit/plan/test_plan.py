"""Plans of whole runs: verdicts, paces, disks, and advice that is tried."""

from typing import Any

import pytest

from asyncds.config.load import parse_config
from asyncds.config.schema import RunConfig
from asyncds.plan.advice import advise, changed_by
from asyncds.plan.families import model_shape
from asyncds.plan.gpus import GIB, GPUS, find_gpu, main_memory, recognise
from asyncds.plan.plan import Plan, Site, make_plan
from asyncds.plan.published import PUBLISHED

MODEL = "Qwen/Qwen2.5-7B"
SHAPE = model_shape(PUBLISHED[MODEL])
H100 = Site(learner=find_gpu("h100-80"), generator=find_gpu("h100-80"))


def run(**settings: Any) -> RunConfig:
    values = {
        "model": MODEL,
        "sampling": {"max_tokens": 2048},
        "generator": {"max_model_len": 4096, "enforce_eager": False},
        "learner": {"ranks": 4, "zero_stage": 3},
    }
    for path, value in settings.items():
        section, _, field = path.partition("__")
        values[section] = {**values.get(section, {}), field: value} if field else value
    return parse_config(values)


def plan(site: Site = H100, **settings: Any) -> Plan:
    return make_plan(run(**settings), SHAPE, site)


def test_a_run_that_fits() -> None:
    found = plan()
    assert found.fits
    assert found.problems == []


def test_what_does_not_fit_is_said_with_its_numbers() -> None:
    (problem,) = plan(learner__ranks=1).problems
    assert problem.startswith("a learner rank needs ")
    assert problem.endswith(" GiB of the 75.7 GiB that can be used of h100-80")
    (problem,) = plan(generator__gpu_memory_utilization=0.22).problems
    assert problem.endswith("vLLM would not start")


def test_a_longer_context_than_the_cache_does_not_start() -> None:
    assert not plan(generator__max_model_len=131_072, generator__gpu_memory_utilization=0.25).fits


def fits(config: RunConfig) -> bool:
    return not make_plan(config, SHAPE, H100).memory


@pytest.mark.parametrize(
    "settings",
    [
        {"learner__ranks": 2},
        {"learner__ranks": 1, "learner__zero_stage": 1},
        {"learner__gradient_checkpointing": False},
        {"learner__micro_batch_tokens": 200_000, "rollout__groups_per_step": 512},
        {"generator__gpu_memory_utilization": 0.2},
    ],
    ids=str,
)
def test_advice_fits_and_nothing_in_it_is_needless(settings: dict[str, Any]) -> None:
    config = run(**settings)
    assert not fits(config)
    advice = advise(config, fits, longest=4096, heads=SHAPE.heads)
    assert advice
    changed = changed_by(config, advice)
    assert changed is not None
    assert fits(changed)
    for path in advice:
        fewer = changed_by(config, {k: v for k, v in advice.items() if k != path})
        assert fewer is None or not fits(fewer)


def test_cheap_changes_come_before_more_gpus() -> None:
    advice = advise(
        run(learner__gradient_checkpointing=False), fits, longest=4096, heads=SHAPE.heads
    )
    assert advice == {"learner.micro_batch_tokens": 4096}


def test_where_nothing_helps_there_is_no_advice() -> None:
    assert advise(run(), lambda _: False, longest=4096, heads=28) is None


def test_generators_that_are_too_many_wait_and_too_few_keep_waiting() -> None:
    few, many = plan(learner__ranks=16), plan(generator__replicas=16)
    assert few.pace is not None
    assert many.pace is not None
    assert few.pace.balance == pytest.approx(few.pace.learner / few.pace.decoding.tokens)
    assert few.pace.generators_idle == pytest.approx(0)
    assert few.pace.learner_idle > 0
    assert many.pace.learner_idle == pytest.approx(0)
    assert many.pace.generators_idle > 0


def test_a_synchronous_run_takes_turns() -> None:
    pace = plan(rollout__max_lag=0).pace
    assert pace is not None
    assert pace.learner_idle > 0
    assert pace.generators_idle > 0
    asynchronous = plan().pace
    assert asynchronous is not None
    assert pace.step_seconds > asynchronous.step_seconds


def test_more_work_for_a_token_is_slower() -> None:
    plain, more = plan().pace, plan(algorithm={"kl": {"coef": 0.1}}).pace
    assert plain is not None
    assert more is not None
    assert more.learner == pytest.approx(plain.learner * 4 / 5)  # recomputation is one of four


def test_weights_travel_within_a_machine_or_over_the_network() -> None:
    near, far = plan().sync, plan(weights__host="10.0.0.1").sync
    assert near.nbytes == far.nbytes == 2 * SHAPE.parameters
    assert near.local
    assert not far.local
    assert near.seconds == pytest.approx(near.nbytes / (0.7 * 64e9))  # PCI Express, not NVLink
    assert far.seconds == pytest.approx(near.nbytes / (0.7 * 25e9))
    assert plan(generator__tensor_parallel=4).sync.pause == pytest.approx(near.pause / 4)


def test_volumes_that_are_too_small_are_named() -> None:
    site = Site(learner=H100.learner, generator=H100.generator, checkpoints=200 * GIB, journal=GIB)
    checkpoints, journal = plan(site).problems
    assert checkpoints.startswith("3 checkpoints take 340.4 GiB, and their volume has 200.0 GiB")
    assert journal.startswith("coordinator.journal_gb 20 is more than")


def test_processes_of_a_machine_share_its_memory() -> None:
    tiny = {**PUBLISHED[MODEL], "num_hidden_layers": 2, "vocab_size": 1000, "hidden_size": 128}
    shape = model_shape({**tiny, "intermediate_size": 256})
    config = run(dtype="float32")
    for size, verdict in ((64, True), (2, False)):
        site = Site(learner=main_memory(size * GIB), generator=main_memory(size * GIB))
        found = make_plan(config, shape, site)
        assert found.fits is verdict
        assert found.pace is None


def test_every_gpu_is_found_by_its_name_and_that_of_its_driver() -> None:
    assert [find_gpu(gpu.name.upper()) for gpu in GPUS] == [*GPUS]
    for name, mib, expected in (
        ("NVIDIA A100-SXM4-80GB", 81_920, "a100-80"),
        ("NVIDIA A100-PCIE-40GB", 40_960, "a100-40"),
        ("NVIDIA H100 80GB HBM3", 81_559, "h100-80"),
        ("NVIDIA H200", 143_771, "h200-141"),
        ("NVIDIA L4", 23_034, "l4-24"),
        ("NVIDIA L40S", 46_068, "l40s-48"),
        ("NVIDIA GeForce RTX 4090", 24_564, "rtx4090-24"),
        ("NVIDIA RTX A6000", 49_140, "a6000-48"),
        ("NVIDIA RTX 6000 Ada Generation", 49_140, "rtx6000ada-48"),
        ("NVIDIA A10", 23_028, "a10-24"),
    ):
        found = recognise(name, mib << 20)
        assert found is not None, name
        assert found.name == expected, name
    assert recognise("Tesla V100", 1 << 35) is None
    with pytest.raises(ValueError, match="no GPU is called tpu: give one of a10-24"):
        find_gpu("tpu")
