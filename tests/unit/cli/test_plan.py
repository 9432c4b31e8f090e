"""`asyncds plan`: what it prints, its exit codes, and where it takes a model's sizes from."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from asyncds.launch import machine
from asyncds.plan.gpus import GIB
from tests.support.command import Command

MODEL = "Qwen/Qwen2.5-7B"
RUN = {
    "model": MODEL,
    "sampling": {"max_tokens": 2048},
    "generator": {"max_model_len": 4096, "enforce_eager": False},
    "learner": {"ranks": 4, "zero_stage": 3},
}


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Command(monkeypatch, capsys, "plan")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return path


def test_the_verdict_comes_first(plan: Command, file: Path) -> None:
    code, out, _ = plan(file, "--gpu", "h100-80")
    assert code == 0
    assert out.startswith("FITS  4 learner ranks (ZeRO 3), 1 generator on h100-80")
    for part in ("AdamW's moments", "KV cache", "weight sync", "checkpoints", "Assumed"):
        assert part in out
    assert f"the sizes of {MODEL} are those it was published with" in out


def test_what_does_not_fit_comes_with_settings_that_do(plan: Command, file: Path) -> None:
    code, out, _ = plan(file, "learner.gradient_checkpointing=false", "--gpu", "h100-80")
    assert code == 1
    assert out.startswith("DOES NOT FIT")
    assert "→ it would fit with learner.micro_batch_tokens=4096" in out


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_no_line_is_cut_or_wider_than_the_terminal(
    columns: int, plan: Command, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for gpus in (["--gpu", "h100-80"], ["--gpu", "l4-24", "--gpu", "h200-141"]):
        out = plan(file, *gpus)[1]
        assert max(map(len, out.splitlines())) <= columns
        assert "…" not in out


def test_several_gpus_are_a_line_each(plan: Command, file: Path) -> None:
    code, out, _ = plan(file, "--gpu", "h200-141", "--gpu", "a10-24")
    assert code == 0  # it fits on one of them
    lines = out.splitlines()
    assert any(line.startswith("h200-141") and "FITS" in line for line in lines)
    assert any(line.startswith("a10-24") and "DOES NOT FIT" in line for line in lines)


def test_without_a_gpu_here_bfloat16_is_planned_for_all(
    plan: Command, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mocked: that this machine has no GPU."""
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)
    out = plan(file)[1]
    assert "b200-180" in out
    assert "l4-24" in out


def test_json_has_the_same_in_bytes(plan: Command, file: Path) -> None:
    code, out, _ = plan(file, "--gpu", "h100-80", "--json", "--completion-tokens", "100")
    answer = json.loads(out)
    assert code == 0
    assert answer["fits"] is True
    assert answer["model"] == {"family": "qwen2", "parameters": 7_615_616_512}
    assert answer["learner_rank_bytes"]["AdamW's moments"] == 2 * 7_615_616_512
    assert answer["pace"]["learner"] > 0


def test_a_gpu_without_a_name(plan: Command, file: Path) -> None:
    out = plan(file, "--gpu-memory", "100", "--json")[1]
    assert json.loads(out)["gpu"] == "GPU of 100 GiB"
    code, _, err = plan(file, "--gpu", "h101")
    assert code == 2
    assert err.startswith("no GPU is called h101: give one of a10-24")


def test_a_directory_needs_its_config_json_only(plan: Command, file: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    code, _, err = plan(file, f"model={directory}", "--gpu", "h100-80")
    assert (code, err.endswith("it is not a Hugging Face model directory\n")) == (2, True)
    fields = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 99}
    fields |= {"num_hidden_layers": 2, "intermediate_size": 128}
    (directory / "config.json").write_text(json.dumps(fields))
    code, out, _ = plan(file, f"model={directory}", "--gpu", "h100-80", "--json")
    assert json.loads(out)["model"]["family"] == "llama"
    (directory / "config.json").write_text(json.dumps(fields | {"model_type": "mamba"}))
    code, _, err = plan(file, f"model={directory}", "--gpu", "h100-80")
    assert (code, err.startswith("nothing is known of the tensors of a model of type mamba")) == (
        2,
        True,
    )


def test_a_model_that_is_nowhere(plan: Command, file: Path) -> None:
    code, _, err = plan(file, "model=nobody/nothing", "--gpu", "h100-80")
    assert code == 2
    assert err.startswith("model nobody/nothing is not a directory here, and its config.json can't")


def test_a_stage_that_does_not_go_with_the_dtype(plan: Command, file: Path) -> None:
    code, _, err = plan(file, "learner.zero_stage=0", "--gpu", "h100-80")
    assert code == 2
    assert "choose zero_stage 1, or dtype float32" in err


def test_manifests_that_are_none(plan: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("kind: ConfigMap\ndata: {a: b}\n"))
    code, _, err = plan("-", "--gpu", "h100-80")
    assert code == 2
    assert err.startswith("the manifests have no configuration of a run")


def test_volumes_of_the_command_line(plan: Command, file: Path) -> None:
    options = ("--checkpoint-volume", "100", "--journal-volume", "5", "--json")
    code, out, _ = plan(file, "--gpu", "h100-80", *options)
    answer = json.loads(out)
    assert (code, len(answer["problems"]), answer["settings_that_fit"]) == (1, 2, None)
    assert "their volume has 100.0 GiB" in answer["problems"][0]


def test_it_needs_no_torch(file: Path) -> None:
    """So that it answers at once, also where nothing is installed to run a model with."""
    script = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'vllm', 'deepspeed', 'huggingface_hub'):\n"
        "    sys.modules[name] = None\n"
        "from asyncds.cli.main import main\n"
        f"sys.argv = ['asyncds', 'plan', {str(file)!r}, '--gpu', 'h100-80']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("FITS")


def test_this_machines_gpu_is_taken_as_it_is(
    plan: Command, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mocked: nvidia-smi."""
    line = "NVIDIA H100 80GB HBM3, 40000, 9.0, 0, GPU-1\n"
    monkeypatch.setattr(machine.shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(
        machine.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, line)
    )
    code, out, _ = plan(file, "learner.ranks=1")
    assert code == 1
    assert f"of the {0.95 * 40_000 * 2**20 / GIB:.1f} GiB that can be used of h100-80" in " ".join(
        out.split()
    )
