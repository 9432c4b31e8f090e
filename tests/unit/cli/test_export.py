"""`asyncds export`: the directory, its card, and the upload, to a fake hub (tests/support)."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from asyncds.cli.export import export_command, merged_model
from asyncds.config.load import dump_config, load_config, parse_as
from asyncds.config.lora import LoraConfig
from asyncds.config.sft import SftConfig
from asyncds.engine.lora import adapter_config, add_adapter
from asyncds.launch.errors import UserError
from asyncds.launch.run_checkpoints import find_checkpoint
from asyncds.rollout.journal import Journal
from asyncds.tiny.recipe import SHIPPED
from asyncds.weights.adapter import adapter_weights
from tests.support.fake_hub import FakeHub, fake_hub
from tests.support.records import evaluation_record
from tests.support.synthetic_run import make_run


def checkpoint(run: Path, step: int) -> Path:
    """Put the tiny model in place as the checkpoint of a step."""
    directory = run / "checkpoints" / f"step-{step}"
    shutil.copytree(SHIPPED, directory / "hf")
    files = {
        str(path.relative_to(directory)): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in directory.rglob("*")
        if path.is_file()
    }
    (directory / "manifest.json").write_text(json.dumps({"files": files, "state": {"step": step}}))
    return directory


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = make_run(tmp_path, steps=20)
    checkpoint(run, 10)
    checkpoint(run, 20)
    return run


def configure(run: Path, *settings: str) -> None:
    (run / "config.yaml").write_text(dump_config(load_config(run / "config.yaml", settings)))


def export(run: Path, **options: Any) -> Path:
    return export_command(
        run_dir=run,
        **{"step": None, "out": None, "push": None, "public": False} | options,
    )


def test_the_directory_loads_and_holds_the_checkpoint_bit_for_bit(run: Path) -> None:
    out = export(run)
    assert out == run / "export" / "step-20"
    for file in SHIPPED.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert (str(model.dtype), model.config.model_type) == ("torch.float32", "qwen2")
    assert AutoTokenizer.from_pretrained(out).decode([1, 2, 3]) == "1 2 3"
    assert [p.name for p in out.parent.iterdir()] == ["step-20"], "nothing is left half made"


def test_the_card_says_what_the_model_is(run: Path) -> None:
    base = run.parents[1] / "models" / "tiny-countdown"
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: mine-1.0\n---\n# Base\n")
    configure(run, "algorithm.advantage.kind=grpo", "learner.lr=3e-5")
    card = ModelCard.load(export(run) / "README.md")
    data = card.data
    assert (data.license, data.license_name) == ("other", "mine-1.0")
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data.base_model is None, "a directory of this machine is no hub id"
    with closing(Journal(run / "journal.db", read_only=True)) as journal:
        results = [e for e in journal.evaluations() if e.step == 20]
    assert {(r.metric_type, r.metric_value) for r in data.eval_results or []} == {
        (f"pass@{k}", round(share, 4)) for e in results for k, share in e.pass_at_k.items()
    }
    first = results[0]
    low, high = (100 * end for end in first.pass_at_k_interval["1"])
    shown = f"{100 * first.pass_at_k['1']:.1f} ({low:.1f}–{high:.1f})"
    assert f"| step 20 | {first.temperature:g} | 12 | 64 | {shown}" in card.text
    assert "| base | 1 | 12 | 64 |" in card.text
    assert "kind: grpo" in card.text
    assert "lr: 3.0e-05" in card.text
    assert "licence | mine-1.0" in card.text
    for name in ("asyncds 0", "torch 2", "transformers 5"):
        assert name in card.text
    assert str(run.parents[1]) not in card.content, "no paths of this machine"


def test_what_is_not_known_is_said_to_be_unknown(run: Path) -> None:
    card = ModelCard.load(export(run, step=10) / "README.md")
    assert "unknown: the card of the base model names none" in card.text
    assert "These weights were not evaluated." in card.text
    assert card.data.license is None


def test_what_was_evaluated_apart_is_on_the_card(run: Path) -> None:
    apart = run.parent / "quickstart-eval-step-10"
    apart.mkdir()
    result = evaluation_record(
        1, {"pass@k": {"1": 0.25}, "pass@k_interval": {"1": [0.2, 0.5]}}
    ).result()
    (apart / "results.json").write_text(json.dumps({"tasks": {"sums": [result]}, "pooled": []}))
    card = ModelCard.load(export(run, step=10) / "README.md")
    assert "| sums | 1 | 3 | 2 | 25.0 (20.0–50.0) |" in card.text


def test_the_data_of_the_hub_are_named_and_a_template_of_the_run_is_kept(run: Path) -> None:
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["task"] = {
        "kind": "dataset",
        "train": [{"dataset": "openai/gsm8k", "subset": "main"}, {"dataset": "/secret/rows.jsonl"}],
        "reward": {"fn": "exact", "options": {"api_key": "hunter2"}},
        "chat": {"template": "{{ messages }}", "system": "Be brief."},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    out = export(run)
    card = ModelCard.load(out / "README.md")
    assert card.data.datasets == ["openai/gsm8k"]
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert "with the system text 'Be brief.'" in card.text
    assert "hunter2" not in card.text
    assert "/secret" not in card.text


def test_a_supervised_training_has_a_card_with_its_losses(run: Path) -> None:
    values = {"model": "org/base", "name": "warm", "data": {"train": "org/rows"}}
    (run / "config.yaml").write_text(dump_config(parse_as(SftConfig, values)))
    lines = [
        {"step": 0, "learner/eval_loss": 2.0},
        {"step": 1, "learner/loss": 1.5},
        {"step": 20, "learner/loss": 0.5, "learner/eval_loss": 0.75},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    card = ModelCard.load(export(run) / "README.md")
    assert "20 steps of supervised training" in card.text
    assert "| 0 | 2.0000 | – |\n| 20 | 0.7500 | 0.5000 |" in card.text
    assert (card.data.base_model, card.data.datasets) == ("org/base", ["org/rows"])
    assert "[org/base](https://huggingface.co/org/base)" in card.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 15}, "no checkpoint of step 15: choose one of 10, 20"),
        ({"out": "models"}, "models is there already: delete it, or choose another with --out"),
        ({"push": "me/mine"}, "--push needs a token of the Hugging Face hub"),
        ({"push": "no id/at/all"}, "--push no id/at/all is no hub id such as me/my-model"),
    ],
)
def test_what_can_not_be_done_is_a_sentence(
    run: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    if "out" in options:
        options = {"out": run.parents[1] / "models"}
    with pytest.raises(UserError, match=message):
        export(run, **options)
    assert not (run / "export").exists()


def test_a_checkpoint_without_its_export(run: Path) -> None:
    directory = run / "checkpoints" / "step-20"
    shutil.rmtree(directory / "hf")
    (directory / "manifest.json").write_text(json.dumps({"files": {}, "state": {"step": 20}}))
    with pytest.raises(UserError, match="has no Hugging Face directory hf"):
        export(run)


def pushed(hub: FakeHub, run: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own, since the library reads its endpoint when imported."""
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_x"}
    command = [sys.executable, "-m", "asyncds.cli.main", "export", str(run), *options]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_it_is_uploaded_to_a_hub(run: Path) -> None:
    with fake_hub() as hub:
        done = pushed(hub, run, "--push", "me/mine")
        assert done.returncode == 0, done.stderr
        assert "uploaded to me/mine" in done.stdout
        assert hub.tokens == {"Bearer hf_x"}
        (made,) = hub.repos.values()
        assert (made["name"], made["visibility"]) == ("mine", "private")
        assert hub.files["model.safetensors"] == (SHIPPED / "model.safetensors").read_bytes()
        assert b'from_pretrained("me/mine")' in hub.files["README.md"]
        hub.refuse = 403
        done = pushed(hub, run, "--push", "me/mine", "--out", str(run / "again"))
    assert done.returncode == 2
    assert "is there, but was not uploaded to me/mine: " in done.stderr
    assert (run / "again" / "README.md").exists()


@pytest.fixture
def adapted(run: Path) -> Path:
    """A run that trained an adapter: its last checkpoint has one, far from nothing."""
    directory = run / "checkpoints" / "step-20"
    shutil.rmtree(directory)
    model = AutoModelForCausalLM.from_pretrained(SHIPPED)
    add_adapter(model, LoraConfig(rank=2), source=str(SHIPPED))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    (directory / "hf").mkdir(parents=True)
    adapter = {name: p.detach() for name, p in adapter_weights(model).items()}
    save_file(adapter, directory / "hf" / "adapter_model.safetensors")
    (directory / "hf" / "adapter_config.json").write_text(json.dumps(adapter_config(model)))
    shutil.copy(SHIPPED / "tokenizer.json", directory / "hf")
    (directory / "manifest.json").write_text(json.dumps({"files": {}, "state": {"step": 20}}))
    configure(run, "learner.lora.rank=2")
    return run


def test_of_an_adapter_the_model_with_it_is_exported_or_it_alone(adapted: Path) -> None:
    alone, merged = export(adapted, adapter=True), export(adapted)
    assert (alone.name, merged.name) == ("step-20-adapter", "step-20")
    ids = torch.tensor([[5, 6, 7]])
    base, both, one = (
        AutoModelForCausalLM.from_pretrained(path)(ids).logits for path in (SHIPPED, alone, merged)
    )
    torch.testing.assert_close(one, both, atol=1e-3, rtol=1e-3)
    assert (one - base).abs().max() > 0.1
    card = (alone / "README.md").read_text()
    assert "--enable-lora --max-lora-rank 8" in card
    assert ModelCard(card).data.library_name == "peft"
    assert "--enable-lora" not in (merged / "README.md").read_text()
    with pytest.raises(UserError, match="trains whole models"):
        export(adapted, step=10, adapter=True)


def test_the_merged_model_of_an_evaluation_is_that_of_the_checkpoint(adapted: Path) -> None:
    checkpoint = find_checkpoint(adapted, 20)
    out = merged_model(adapted, checkpoint)
    assert out == merged_model(adapted, checkpoint) == adapted / "export" / "step-20"
    os.utime(checkpoint.directory / "manifest.json", (2e9, 2e9))
    with pytest.raises(UserError, match="is of an older checkpoint of that step: delete it"):
        merged_model(adapted, checkpoint)
    (out / "config.json").unlink()
    with pytest.raises(UserError, match="is in the way of the merged model: delete it"):
        merged_model(adapted, checkpoint)
    shutil.rmtree(out)
    adapter = json.loads((checkpoint.model / "adapter_config.json").read_text())
    gone = {**adapter, "base_model_name_or_path": str(adapted / "gone")}
    (checkpoint.model / "adapter_config.json").write_text(json.dumps(gone))
    with pytest.raises(UserError, match=r"could not be merged into its model: .*--adapter exports"):
        merged_model(adapted, checkpoint)
    assert not out.exists()


def test_a_whole_model_is_its_checkpoints(run: Path) -> None:
    checkpoint = find_checkpoint(run, 20)
    assert merged_model(run, checkpoint) == checkpoint.model
