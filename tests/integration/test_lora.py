"""An adapter in the learner: real DeepSpeed and PEFT, every ZeRO stage, one rank and two.

What the engines make of it is in test_lora_vllm.py.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from asyncds.config.lora import LoraConfig
from asyncds.engine.checkpoint import manifest_of
from asyncds.engine.lora import adapter_left_out, add_adapter
from asyncds.engine.merging import write_merged
from asyncds.tiny.model import save_untrained
from asyncds.weights.adapter import adapted_layers, base_weights
from tests.integration.engine_rig import log_softmax_of_next
from tests.integration.test_training import PARTITION_ALL, Results, launch
from tests.integration.training_worker import PROBE

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("lora_worker.py")
STAGES = (0, 1, 2, 3)
RANK = 4
TARGETS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tied"
    save_untrained(path, seed=0)
    return path


@pytest.fixture(scope="module", params=[1, 2], ids=["1-rank", "2-ranks"])
def results(
    request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Results:
    root = tmp_path_factory.mktemp(f"ranks{request.param}")

    def job(name: str, *, stage: int, dtype: str = "float32", **settings: Any) -> dict[str, Any]:
        learner = {
            "zero_stage": stage,
            "lora": {"rank": RANK, "alpha": 8},
            "deepspeed": PARTITION_ALL,
            **settings,
        }
        return {
            "name": name,
            "settings": learner,
            "model": str(base),
            "dtype": dtype,
            "directory": str(root / name),
        }

    jobs = [job(f"zero{stage}", stage=stage) for stage in STAGES]
    jobs += [job("recomputed", stage=1, gradient_checkpointing=True)]
    jobs += [job("bfloat16", stage=3, dtype="bfloat16")]
    return launch(request.param, jobs, root / "out", worker=WORKER)


FLOAT32 = [*(f"zero{stage}" for stage in STAGES), "recomputed"]
ALL = [*FLOAT32, "bfloat16"]


def together(parts: list[dict[str, Any]], prefix: str) -> dict[str, torch.Tensor]:
    """What all ranks copied: each its part, and zeros elsewhere."""
    names = [name for name in parts[0] if name.startswith(prefix)]
    return {
        name.removeprefix(prefix): torch.from_numpy(sum(p[name] for p in parts if name in p))
        for name in names
    }


@pytest.mark.parametrize("name", ALL)
def test_an_adapter_begins_as_the_model_and_its_reference_stays_that(
    results: Results, name: str, base: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    for rank in results(name):
        atol = 1e-5 if name in FLOAT32 else 0.1
        expected = log_softmax_of_next(model, PROBE.tolist(), 1.0)
        np.testing.assert_allclose(rank["base"], expected, atol=atol)
        np.testing.assert_array_equal(rank["reference"], rank["before"])
        assert abs(rank["probe"] - rank["base"]).max() > 0.05


@pytest.mark.parametrize("name", FLOAT32)
def test_ranks_and_stages_train_the_same_adapter(results: Results, name: str) -> None:
    [first, *_] = results("zero0")
    for rank in results(name):
        np.testing.assert_allclose(rank["probe"], first["probe"], atol=1e-4)
        np.testing.assert_allclose(rank["next"], first["next"], atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_a_loaded_checkpoint_goes_on_as_if_nothing_had_happened(
    results: Results, name: str
) -> None:
    for rank in results(name):
        assert rank["problem"] == ""
        np.testing.assert_array_equal(rank["loaded"], rank["probe"])
        np.testing.assert_array_equal(rank["again"], rank["next"])


@pytest.mark.parametrize("name", ALL)
def test_a_checkpoint_has_nothing_of_the_model(results: Results, name: str, base: Path) -> None:
    checkpoint = results.out.parent / name / "step-2"
    files = manifest_of(checkpoint)["files"]
    adapter = 4 * int(results(name)[0]["size"])
    assert adapter < (base / "model.safetensors").stat().st_size / 5
    # Weights once more than the optimizer's three, and what the files say of themselves.
    assert sum(file["bytes"] for file in files.values()) < 5 * adapter + 200_000


@pytest.mark.parametrize("alone", [False, True], ids=["every-rank-copies", "rank-0-copies"])
@pytest.mark.parametrize("name", ALL)
def test_what_is_sent_is_what_is_saved_and_what_was_computed(
    results: Results, name: str, alone: bool, base: Path, tmp_path: Path
) -> None:
    """The adapter that is sent, its file, and merged weights: all give the learner's numbers."""
    parts = results(name)
    hf = results.out.parent / name / "step-2" / "hf"
    saved = load_file(hf / "adapter_model.safetensors")
    sent = together(parts, f"adapter-{alone}/")
    assert sent.keys() == saved.keys()
    assert {n.rsplit(".", 3)[1] for n in sent} == set(TARGETS)
    for tensor in sent:
        torch.testing.assert_close(sent[tensor], saved[tensor].float(), atol=0, rtol=0)
    exact = name in FLOAT32
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = together(parts, f"merge-{alone}/")
    assert merged.keys() == dict(model.named_parameters()).keys()
    model.load_state_dict(merged, strict=False)
    got = log_softmax_of_next(model, PROBE.tolist(), 1.0)
    np.testing.assert_allclose(got, parts[0]["probe"], atol=1e-4 if exact else 0.15)


@pytest.mark.parametrize("name", ["zero0", "zero3"])
def test_other_libraries_load_the_adapter_and_its_merged_export(
    results: Results, name: str, base: Path, tmp_path: Path
) -> None:
    hf = results.out.parent / name / "step-2" / "hf"
    expected = results(name)[0]["probe"]
    write_merged(hf, tmp_path / "merged")
    for model in (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), hf),
        AutoModelForCausalLM.from_pretrained(hf),
        AutoModelForCausalLM.from_pretrained(tmp_path / "merged"),
    ):
        got = log_softmax_of_next(model, PROBE.tolist(), 1.0)
        np.testing.assert_allclose(got, expected, atol=1e-4)
    assert not list((tmp_path / "merged").glob("adapter*"))


def test_a_target_that_the_model_does_not_have_is_told(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    for target in ("c_attn", "lm_head", "embed_tokens"):
        settings = LoraConfig(target_modules=["q_proj", target])
        with pytest.raises(
            ValueError, match=f"{target} are no linear layers of .*: choose from .*o_proj"
        ):
            add_adapter(model, settings, source=str(base))


def test_parts_of_a_merged_matrix_are_the_whole(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is cut, and however little of it is merged at once."""
    model = AutoModelForCausalLM.from_pretrained(base)
    add_adapter(model, LoraConfig(rank=RANK, rank_stabilised=True), source=str(base))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    [name, adapted] = next(iter(adapted_layers(model).items()))
    weight = base_weights(model)[name].detach()
    a, b = (p.detach() for p in adapted.parameters)
    expected = (weight + 32 / RANK**0.5 * b @ a).flatten()
    for at_once in (1 << 22, 100):
        monkeypatch.setattr("asyncds.weights.adapter._AT_ONCE", at_once)
        for start, end in ((0, len(expected)), (5, 700), (128, 256), (130, 130), (0, 0)):
            got = adapted.merged(weight.flatten()[start:end], start)
            torch.testing.assert_close(got, expected[start:end])


def test_the_model_is_there_as_it_was_while_the_adapter_is_left_out(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    before = log_softmax_of_next(model, PROBE.tolist(), 1.0)
    add_adapter(model, LoraConfig(), source=str(base))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    with adapter_left_out(model):
        np.testing.assert_array_equal(log_softmax_of_next(model, PROBE.tolist(), 1.0), before)
    assert abs(log_softmax_of_next(model, PROBE.tolist(), 1.0) - before).max() > 0.1
    assert all(p.requires_grad == ("lora_" in n) for n, p in model.named_parameters())
