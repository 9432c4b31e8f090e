"""The configurations and sweeps of configs/."""

from pathlib import Path

import pytest
import yaml

from asyncds.cli.sweep import sweep_command
from asyncds.config.load import load_config
from asyncds.config.sweep import load_sweep
from asyncds.config.tasks import MathTask
from asyncds.launch.preflight import preflight
from tests.support.paths import ROOT

FILES = sorted((ROOT / "configs").rglob("*.yaml"))
PAPER = [path for path in FILES if path.parent.name == "paper"]
STUDIES = sorted((ROOT / "docs/studies").glob("*.jsonl"))
SWEEPS = [path for path in FILES if path.parent.name == "sweeps"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_is_a_configuration_or_a_sweep(path: Path) -> None:
    if "run" in yaml.safe_load(path.read_text()):
        sweep, runs = load_sweep(path)
        assert len(runs) >= len(sweep.arms) > 1
    else:
        assert load_config(path).model


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_settings_of_the_paper(path: Path) -> None:
    config = load_config(path)
    assert (config.learner.betas, config.learner.weight_decay) == ((0.9, 0.999), 0.01)
    if isinstance(config.task, MathTask):
        sources = [source.dataset for source in config.task.train]
        # Its tables: DAPO14k alone for Qwen3, with MATH12k for the others.
        assert ("hiyouga/math12k" in sources) == (path.stem != "qwen3-1.7b")
    elif path.stem == "knights-knaves-qwen2.5-7b":
        assert config.task.kind == "reasoning_gym"
        assert config.learner.lora
    else:
        assert config.task.kind == "countdown"
        assert config.task.chat.system
        assert config.task.chat.prefix.endswith("<think>")


def test_every_configuration_of_the_paper_has_every_arm() -> None:
    arms = {"DS-GRPO", "GRPO", "DS-Positive", "DS-Negative", "entropy bonus", "entropy penalty"}
    arms |= {"unlikeliness", "PKPO", "GR-PKPO", "CISPO"}
    found = {path.stem: load_sweep(path) for path in SWEEPS if path.stem != "countdown-3"}
    assert set(found) == {path.stem for path in PAPER}
    for sweep, runs in found.values():
        assert set(sweep.arms) == arms
        by_label = {run.config.label: run.config.algorithm for run in runs}
        assert by_label["DS-Positive"].advantage.gamma_n == 0  # type: ignore[union-attr]
        assert by_label["DS-Negative"].advantage.gamma_p == 0  # type: ignore[union-attr]
        assert by_label["DS-Positive"].advantage.gamma_p > 0  # type: ignore[union-attr]
        penalty, bonus = by_label["entropy penalty"], by_label["entropy bonus"]
        assert penalty.entropy_coef < 0 < bonus.entropy_coef
        assert penalty.advantage.kind == bonus.advantage.kind == "grpo"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_check_finds_nothing_wrong_with_an_arm_but_that_the_hub_is_away(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncds.launch.preflight.check_model", lambda *_, **__: ([], None))
    monkeypatch.setattr("asyncds.launch.preflight.data.missing", lambda source: f"no {source}")
    for run in load_sweep(path)[1]:
        found = preflight(run.config)
        away = ("task: no ", "task: the task reasoning_gym needs the package")
        assert all(problem.startswith(away) for problem in found), found


@pytest.mark.parametrize("rows", STUDIES, ids=lambda path: path.stem)
def test_a_study_goes_on_from_its_rows(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each was made with the settings that the study has now; otherwise it is refused."""
    file = ROOT / "configs/studies" / f"{rows.stem}.yaml"
    code = sweep_command(file=file, overrides=[], jobs=1, list_only=True, results=rows, only=["*"])
    assert code == 0
    assert "finished" in capsys.readouterr().out


def test_countdown_3_is_the_data_set_by_number_of_operands() -> None:
    _, runs = load_sweep(ROOT / "configs/paper/sweeps/countdown-3.yaml")
    assert {run.config.task.dataset_operands for run in runs} == {3}  # type: ignore[union-attr]
