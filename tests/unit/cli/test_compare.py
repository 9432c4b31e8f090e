"""`asyncds compare`, run in this process."""

import re
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.synthetic_runs import small_run


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "120")
    return Command(monkeypatch, capsys, "compare")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    root = tmp_path / "sweep"
    for seed in (0, 1, 2):
        small_run(root / f"grpo-{seed}", seed=seed, gain=0.2, label="GRPO")
        small_run(root / f"ds-{seed}", seed=seed, gain=0.3, label="DS-GRPO")
    return root


def line(out: str, *cells: str) -> str:
    """The first line that begins with these cells."""
    return next(text for text in out.splitlines() if text.split()[: len(cells)] == list(cells))


def test_a_folder_of_runs(compare: Command, sweep: Path) -> None:
    code, out, err = compare(sweep, "--baseline", "GRPO")
    assert (code, err) == (0, "")
    assert "Result at temperature 1" in out
    assert "±" in line(out, "GRPO", "3")
    differences = out[out.index("Result at temperature 1, less GRPO") :]
    assert "+9.8 ±0.0" in line(differences, "DS-GRPO", "3")
    assert "Training, less GRPO" in out
    assert "Every pair" not in out
    assert not list(sweep.glob("compare.*"))


def test_the_first_group_is_the_baseline(compare: Command, sweep: Path) -> None:
    runs = sorted(sweep.iterdir(), reverse=True)
    assert "Training, less GRPO\n" in compare(*runs)[1]
    assert "Training, less DS-GRPO\n" in compare(*reversed(runs))[1]


def test_every_pair(compare: Command, sweep: Path) -> None:
    _, out, _ = compare(sweep, "--pairs")
    pairs = out[out.index("Every pair") :]
    for seed in "012":
        assert "-9.8" in line(pairs, "GRPO", "a", seed)


def test_long_labels_become_numbers(compare: Command, tmp_path: Path) -> None:
    small_run(tmp_path / "r0", label="a label that would take half of the table")
    small_run(tmp_path / "r1", label="b", gain=0.2)
    _, out, _ = compare(tmp_path)
    assert line(out, "1", "a", "label").split("  ")[-1].strip().endswith("half of the table")
    assert line(out, "2", "1")


def test_a_narrow_terminal_cuts_no_number(
    compare: Command, sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = compare(sweep, "--pairs")[1]
    monkeypatch.setenv("COLUMNS", "72")
    narrow = compare(sweep, "--pairs")[1]
    assert "…" not in narrow.replace("“less …”", "")
    assert max(map(len, narrow.splitlines())) <= 72
    for number in re.findall(r"±?\d+\.\d+", wide):
        assert number in narrow


def test_over_a_setting(compare: Command, tmp_path: Path) -> None:
    for lag in (0, 4, 16):
        for label, gain in (("GRPO", 0.2), ("DS-GRPO", 0.3)):
            for seed in (0, 1):
                small_run(
                    tmp_path / "runs" / f"{label}-{lag}-{seed}",
                    seed=seed,
                    gain=gain - 0.01 * lag,
                    label=f"{label} target_lag={lag}",
                    rollout={"target_lag": lag, "max_lag": 17},
                )
    over = (tmp_path / "runs", "--over", "rollout.target_lag", "--baseline", "GRPO")
    code, out, err = compare(*over, "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    assert line(out, "group").split() == ["group", "runs", "0", "4", "16"]
    pairs = out[out.index("Pass@1 at temperature 1, less GRPO") :]
    assert line(pairs, "DS-GRPO").split() == ["DS-GRPO", "2", *["+9.8", "±0.0"] * 3]
    itself = out[out.index("Pass@1 at temperature 1, less itself at target_lag 0") :]
    assert line(itself, "group").split() == ["group", "pairs", "4", "16"]
    assert line(itself, "GRPO").split() == ["GRPO", "2", "-3.9", "±0.0", "-15.7", "±0.0"]
    assert "Every pair" not in out
    files = [tmp_path / "out" / f"compare.{kind}" for kind in ("html", "md", "svg", "json")]
    assert out.splitlines()[-4:] == [str(file) for file in files]
    listed = compare(*over, "--pairs")[1]
    assert "+9.8" in line(listed[listed.index("Every pair") :], "DS-GRPO", "a", "1")


def test_over_a_setting_that_does_not_vary_is_a_sentence(compare: Command, sweep: Path) -> None:
    code, out, err = compare(sweep, "--over", "rollout.max_lag")
    assert (code, out) == (2, "")
    assert err == "rollout.max_lag is 4 in all runs: they differ in seed\n"
    code, out, err = compare(sweep, "--over", "max_lag")
    assert (code, out) == (2, "")
    assert err == "no run has a setting 'max_lag': they differ in seed\n"


def test_files(compare: Command, sweep: Path, tmp_path: Path) -> None:
    _, out, _ = compare(sweep, "--output", tmp_path / "out")
    files = [tmp_path / "out" / f"compare.{kind}" for kind in ("html", "md", "svg", "json")]
    assert out.splitlines()[-4:] == [str(file) for file in files]
    assert all(file.stat().st_size for file in files)


def test_output_that_can_not_be_written(compare: Command, sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = compare(sweep, "--output", tmp_path / "file")
    assert (code, err) == (2, f"cannot write to {tmp_path / 'file'}: File exists\n")


def test_unfinished_and_failed_runs_are_named(compare: Command, sweep: Path) -> None:
    small_run(sweep / "going-on", status=None)
    small_run(sweep / "broken", status="failed")
    code, out, _ = compare(sweep)
    flat = " ".join(out.split())
    assert code == 0
    assert "broken: its status is failed, not finished" in flat
    assert "going-on: has no summary.json yet" in flat
    assert line(out, "GRPO", "3")


def test_one_run_is_fine(compare: Command, sweep: Path) -> None:
    code, out, _ = compare(sweep / "ds-0")
    assert code == 0
    assert ", less " not in out
    assert "±" not in line(out, "DS-GRPO", "1")


def test_wrong_input_is_a_sentence(compare: Command, sweep: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    code, out, err = compare(sweep, nowhere)
    assert (code, out) == (2, "")
    assert err == (
        f"{nowhere} is not a run directory and holds none: name directories with a config.yaml\n"
    )
    code, out, err = compare(sweep, "--baseline", "PPO")
    assert (code, out) == (2, "")
    assert err == "there is no group 'PPO' to be the baseline: there is 'DS-GRPO', 'GRPO'\n"
    small_run(tmp_path / "alone", status=None)
    code, out, err = compare(tmp_path / "alone")
    assert (code, out) == (2, "")
    assert err.startswith(f"{tmp_path / 'alone'} can't be compared: has no summary.json yet")
    small_run(sweep / "other", ks=(3,), label="other")
    code, out, err = compare(sweep)
    assert (code, out) == (2, "")
    assert err.startswith("no k of Pass@k is common to all runs")
    assert len(err.splitlines()) == 1
