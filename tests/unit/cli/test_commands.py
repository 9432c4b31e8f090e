import json
import shutil
import subprocess
import sys
import types
from contextlib import closing
from pathlib import Path

import pytest

from asyncds.cli import doctor
from asyncds.cli.doctor import Finding
from asyncds.cli.inspect import printable
from asyncds.rollout.journal import Journal
from tests.support.command import Command
from tests.support.html_page import Page
from tests.support.played import add_group, episode_group
from tests.support.synthetic_run import make_model, make_run


@pytest.fixture
def asyncds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    model = make_model(tmp_path / "model")
    file.write_text(f"model: {model}\nruns_dir: {tmp_path / 'runs'}\n")
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def test_the_command_as_a_process_refuses_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "asyncds.cli.main", "config", "check", "nowhere.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "cannot read nowhere.yaml: No such file or directory\n"


def test_importing_the_command_loads_nothing_heavy() -> None:
    code = (
        "import sys, asyncds.cli.main\n"
        "heavy = {'torch', 'transformers', 'vllm', 'deepspeed', 'pydantic', 'numpy', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_local_checks_load_no_torch(config_file: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from asyncds.launch.preflight import preflight\n"
        "from asyncds.config.load import load_config\n"
        f"preflight(load_config(Path({str(config_file)!r})))\n"
        "print(sorted({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- config -------------------------------------------------------------------------------------


def test_config_check(asyncds: Command, config_file: Path) -> None:
    code, out, err = asyncds("config", "check", config_file)
    assert (code, err) == (0, "")
    assert "is fine" in out


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("lerner.lr=1", "unknown key lerner: did you mean learner?"),
        ("steps=many", "steps: "),
        ("model=/nowhere", "model /nowhere is not there"),
        ("sampling.top_p=0.9", "without truncation"),
        ("learner.ranks=4096", "few for 4096 learner ranks"),
        ("weights.transport=nccl", "nccl needs GPUs"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_code_2(
    asyncds: Command, config_file: Path, override: str, says: str
) -> None:
    code, out, err = asyncds("config", "check", config_file, override)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_config_show_and_schema(asyncds: Command, config_file: Path) -> None:
    code, out, _ = asyncds("config", "show", config_file, "learner.lr=1e-4")
    assert code == 0
    assert "lr: 0.0001" in out
    assert "group_size: 8" in out
    code, out, _ = asyncds("config", "schema")
    schema = json.loads(out)
    assert code == 0
    assert schema["properties"]["steps"]["description"].startswith("Training batches")


# --- run ----------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The arguments that the run command was called with; it exits 1."""
    seen: list[dict[str, object]] = []
    module = types.ModuleType("asyncds.cli.run")
    module.run_command = lambda **values: seen.append(values) or 1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "asyncds.cli.run", module)
    return seen


def test_run(asyncds: Command, calls: list[dict[str, object]]) -> None:
    assert asyncds("run", "--replace", "a.yaml", "steps=3", "name=x")[0] == 1
    assert asyncds("run", "--resume", "runs/a", "steps=9")[0] == 1
    assert asyncds("run", "--continue", "a.yaml")[0] == 1
    here = {"site": None, "resume": None, "replace": False, "go_on": False, "detach": False}
    fresh = {"config": Path("a.yaml"), "overrides": ["steps=3", "name=x"]}
    resumed = {"config": None, "overrides": ["steps=9"]}
    assert calls == [
        here | fresh | {"replace": True},
        here | resumed | {"resume": Path("runs/a")},
        here | {"config": Path("a.yaml"), "overrides": [], "go_on": True},
    ]


def test_a_run_starts_anew_or_goes_on(asyncds: Command, calls: list[dict[str, object]]) -> None:
    code, _, err = asyncds("run", "--continue", "--replace", "a.yaml")
    assert (code, calls) == (2, [])
    assert "give one of them" in err


def test_run_without_a_configuration(asyncds: Command, calls: list[dict[str, object]]) -> None:
    code, _, err = asyncds("run", "steps=3")
    assert (code, err) == (2, "give a configuration file, or --resume RUN\n")
    assert calls == []


# --- doctor -------------------------------------------------------------------------------------


def test_doctor_on_this_machine(asyncds: Command) -> None:
    code, out, _ = asyncds("doctor")
    for name in ("Python", "CPU", "memory", "disk", "GPU", "PyTorch", "vLLM", "a run here uses"):
        assert name in out
    assert code == (1 if "missing:" in out else 0)


def test_doctor_says_what_is_missing(asyncds: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: None)
    code, out, _ = asyncds("doctor")
    assert code == 1
    assert "missing: PyTorch, vLLM, DeepSpeed, transformers" in out
    assert "pip install 'asyncds[cpu]'" in out


def test_doctor_knows_the_torchvision_trap(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch": "2.13.0+cpu", "torchvision": "0.28.0", "torchaudio": "2.13.0+cpu"}
    monkeypatch.setattr(doctor, "version", installed.get)
    assert doctor.clashing("2.13.0+cpu") == ["torchvision"]
    assert doctor.clashing("2.13.0") == []
    trap = next(f for f in doctor.examine() if f.name == "torchvision")
    assert trap == Finding(
        name="torchvision",
        value="CUDA builds beside PyTorch's CPU build break `import transformers`",
        state="missing",
        mend="pip uninstall -y torchvision",
    )


# --- reading a run ------------------------------------------------------------------------------


def rows(asyncds: Command, run: Path, *arguments: str) -> list[dict[str, object]]:
    code, out, _ = asyncds("inspect", run, "--json", "--limit", "100000", *arguments)
    assert code == 0
    return [json.loads(line) for line in out.splitlines()]


def test_inspect_filters(asyncds: Command, run: Path) -> None:
    everything = rows(asyncds, run)
    assert len(everything) == 2 * 4 * 12 * 8 + 60 * 2 * 8
    first = rows(asyncds, run, "--step", "1")
    assert len(first) == 16
    assert {(r["step"], r["purpose"], r["lag"]) for r in first} == {(1, "train", 0)}
    evaluated = rows(asyncds, run, "--evaluation", "3")
    assert len(evaluated) == 96
    assert {(r["evaluation"], r["purpose"], r["newest"]) for r in evaluated} == {(3, "eval", 20)}
    right = rows(asyncds, run, "--correct", "--purpose", "train")
    wrong = rows(asyncds, run, "--incorrect", "--purpose", "train")
    assert {r["correct"] for r in right} == {True}
    assert {r["correct"] for r in wrong} == {False}
    assert len(right) + len(wrong) == 960
    assert {r["oldest"] for r in rows(asyncds, run, "--version", "7")} == {7}


def test_inspect_as_a_table(asyncds: Command, run: Path) -> None:
    code, out, _ = asyncds("inspect", run, "--step", "60", "--limit", "2")
    assert code == 0
    assert len(out.strip().splitlines()) == 3
    assert " = " in out
    code, out, err = asyncds("inspect", run, "--step", "61")
    assert (code, out, err) == (0, "", "no rollout matches\n")


def test_inspect_an_episode(asyncds: Command, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run.parents[1] / "models", tmp_path / "models")
    copy = shutil.copytree(run, tmp_path / "copy")
    add_group(copy, episode_group(), step=60)
    right, wrong = rows(asyncds, copy, "--turns", "2")
    assert rows(asyncds, copy, "--step", "61-70") == [right, wrong]
    assert rows(asyncds, copy, "--reason", "turns") == [wrong]
    assert rows(asyncds, copy, "--text", "6 : 2", "--turns", "2") == [right]
    assert rows(asyncds, copy, "--text", "( 1 ) = 1") == [wrong]
    assert [turn["text"] for turn in right["turns"]] == ["2 * 3 =", "6 :", "2 * 3"]
    assert all(turn["tokens"] == [] for turn in right["turns"])
    (listed, _) = rows(asyncds, copy, "--turns", "2", "--tokens", "version")
    assert listed["turns"][0]["tokens"][1] == [" *", 102, -0.5, 3]
    code, out, _ = asyncds("inspect", copy, "--turns", "2", "--tokens", "logprob")
    assert (code, "▸ 2 * 3 =" in out, "◂ 6 :" in out, "ended by turns" in out) == (0, *[True] * 3)
    page = tmp_path / "page.html"
    code, out, _ = asyncds("inspect", copy, "--turns", "2", "--html", page)
    assert (code, out.strip()) == (0, str(page))
    assert Page(page.read_text()).links == ["data:,"], "it loads nothing"
    assert "Content-Security-Policy" in page.read_text()


def test_inspect_sets_and_lags(asyncds: Command, run: Path) -> None:
    assert {r["set"] for r in rows(asyncds, run, "--set", "AIME")} == {"AIME"}
    assert {r["lag"] for r in rows(asyncds, run, "--lag", "1")} == {1, 2}


@pytest.mark.parametrize("step", ["x", "0", "8-3", "1-x"])
def test_inspect_refuses_steps_that_are_none(asyncds: Command, run: Path, step: str) -> None:
    code, _, err = asyncds("inspect", run, "--step", step)
    assert (code, "give a step such as 3, or a range such as 3-8" in err) == (2, True)


def test_inspect_names_samples_that_were_deleted(
    asyncds: Command, run: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    with closing(Journal(copy / "journal.db")) as journal, journal.transaction():
        journal.delete_samples([g.lease for g in journal.groups(step=0)])
    code, out, err = asyncds("inspect", copy, "--step", "1")
    assert (code, out) == (0, "")
    assert "the samples of 2 groups that match were deleted" in err
    code, out, err = asyncds("inspect", copy, "--step", "2", "--json")
    assert (len(out.splitlines()), err) == (16, "")


def test_inspect_refuses(asyncds: Command, run: Path, tmp_path: Path) -> None:
    code, _, err = asyncds("inspect", run, "--evaluation", "9")
    assert code == 2
    assert "has no finished evaluation 9: there is 1 (version 0, temperature 1), 2 " in err
    code, _, err = asyncds("inspect", tmp_path)
    assert (code, err) == (2, f"{tmp_path} is not a run directory: it has no config.yaml\n")
    (tmp_path / "config.yaml").write_text("model: x\n")
    assert asyncds("inspect", tmp_path)[0] == 2
    (tmp_path / "journal.db").write_text("this is no SQLite file, whatever its name says")
    code, _, err = asyncds("inspect", tmp_path)
    assert code == 2
    assert "cannot open the journal" in err
    assert "Traceback" not in err


def test_model_text_can_not_command_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\x07") == "a\\x1b[2Jb\nc\\x07"


def test_report(asyncds: Command, run: Path, tmp_path: Path) -> None:
    code, out, _ = asyncds("report", run)
    assert (code, out.strip()) == (0, str(run / "report.html"))
    assert (run / "report.html").exists()
    code, _, err = asyncds("report", tmp_path)
    assert code == 2
    assert "is not a run directory" in err


def test_tiny_model_does_not_overwrite(asyncds: Command, tmp_path: Path) -> None:
    code, _, err = asyncds("tiny-model", tmp_path)
    assert code == 2
    assert str(tmp_path) in err
