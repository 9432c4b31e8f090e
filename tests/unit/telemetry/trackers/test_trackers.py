"""Trackers: what is sent, and what happens when one does not take it. The libraries are the real
ones where the test's name says which; else the tracker is made up."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.cli.track import track_command
from asyncds.config.load import ConfigError, dump_config, parse_config
from asyncds.config.schema import RunConfig
from asyncds.config.trackers import MlflowConfig, TensorBoardConfig, WandbConfig
from asyncds.launch.errors import UserError
from asyncds.rollout.journal import Journal
from asyncds.telemetry.trackers import make
from asyncds.telemetry.trackers.follower import (
    FollowedError,
    Follower,
    read_place,
    unsent,
)
from asyncds.telemetry.trackers.make import make_follower, make_tracker, missing_package
from asyncds.telemetry.trackers.public_config import HIDDEN, public_config, without_secrets
from asyncds.telemetry.trackers.tracker import (
    Record,
    evaluation_numbers,
    step_numbers,
    summary_numbers,
)
from tests.support.records import evaluation_record, step_record

SUMMARY = {"status": "finished", "steps": 6, "lag": {"max": 2}, "eval": [{"pass@k": {"1": 1}}]}
CONFIG = {"seed": 3, "learner": {"lr": 1e-4, "betas": [0.9, 0.95]}}


def line(step: int, life: int = 0) -> dict[str, Any]:
    return {
        "step": step,
        "time": 1000.0 + step,
        "reward": step + life / 8,
        "self_overlap": None,
        "learner/mismatch_kl/lag=0": float("nan") if step == 2 else 0.25,
    }


def result(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "version": step,
        "temperature": 0.6,
        "pass@k": {"1": 0.25, "16": 0.5},
        "distinct": {"written": 2.0},
        "top_share": None,
        "self_overlap": 0.5,
        "normalised_variance": 0.125,
        "entropy": 1.0,
    }


class Run:
    """A run directory with a journal, written as the coordinator does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.journal = Journal(path / "journal.db")
        self.life = 0
        self.reached = 0

    def train(self, steps: int) -> None:
        with self.journal.transaction():
            for _ in range(steps):
                self.reached += 1
                self.journal.add_step(step_record(line(self.reached, self.life)))

    def evaluate(self) -> None:
        with self.journal.transaction():
            id = self.journal.add_evaluation(version=self.reached, step=self.reached, n_samples=16)
            self.journal.finish_evaluation(evaluation_record(id, result(self.reached)))

    def rewind(self, step: int) -> None:
        with self.journal.transaction():
            self.journal.rewind(step)
            self.journal.drop_evaluations(from_step=step)
        self.reached, self.life = step, self.life + 1

    def summarise(self, **changes: Any) -> None:
        (self.path / "summary.json").write_text(json.dumps(SUMMARY | changes))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path / "runs" / "r")
    yield run
    run.journal.close()


class MadeUp:
    """A server and its client: takes back undone steps; fails while `down`, having taken half."""

    def __init__(self) -> None:
        self.down, self.calls = False, 0
        self.begun: list[tuple[str, int]] = []
        self.steps: list[tuple[int, float]] = []
        self.evaluations: list[int] = []
        self.summaries: list[Record] = []

    def _fail(self) -> None:
        self.calls += 1
        if self.down:
            raise ConnectionError("no network")

    def begin(self, *, name: str, run: str, step: int, config: Record) -> str:
        self._fail()
        assert (name, config) == ("r", CONFIG)
        self.begun.append((run, step))
        self.rewind(step)
        return "id"

    def step(self, line: Record) -> None:
        self.steps.append((line["step"], line["reward"]))
        self._fail()

    def evaluation(self, result: Record) -> None:
        self._fail()
        self.evaluations.append(result["step"])

    def rewind(self, step: int) -> None:
        self.steps = [s for s in self.steps if s[0] <= step]
        self.evaluations = [e for e in self.evaluations if e <= step]

    def flush(self) -> None:
        """All is taken at once."""

    def finish(self, summary: Record) -> None:
        self._fail()
        self.summaries.append(summary)


class Followed:
    """Followers of a run, one after the other, to one made-up server."""

    def __init__(self, run: Run) -> None:
        self.run, self.server, self.clock = run, MadeUp(), 0.0
        self.follower = self.start()

    def start(self) -> Follower:
        return Follower(
            run_dir=self.run.path,
            name="r",
            kind="wandb",
            config=CONFIG,
            make=lambda: self.server,
            now=lambda: self.clock,
        )

    def restart(self) -> None:
        self.follower.close()
        self.follower = self.start()

    def turn(self, *, last: bool = False) -> None:
        self.clock += 100
        self.follower.turn(last=last)

    def holds(self) -> bool:
        """The server has the journal's steps, each once, and its evaluations."""
        with closing(Journal(self.run.path / "journal.db", read_only=True)) as journal:
            steps = [(s.step + 1, s.line()["reward"]) for s in journal.steps()]
            evaluations = [e.step for e in journal.evaluations()]
        return (self.server.steps, self.server.evaluations) == (steps, evaluations)


# --- following ----------------------------------------------------------------------------------


def test_everything_once_in_order_and_the_summary_at_the_end(run: Run) -> None:
    followed = Followed(run)
    followed.turn()
    assert followed.server.begun == [("", 0)], "a tracker that can't work is known at once"
    run.evaluate()
    run.train(2)
    followed.turn()
    followed.turn()
    run.train(1)
    run.evaluate()
    followed.turn()
    assert followed.holds()
    run.summarise()
    followed.turn()
    assert followed.server.summaries == [], "an old summary may lie there while a run goes on"
    assert unsent(run.path, "wandb") == 1
    followed.turn(last=True)
    followed.turn(last=True)
    assert followed.server.summaries == [SUMMARY]
    assert unsent(run.path, "wandb") == 0
    assert followed.server.begun == [("", 0)]


def test_another_process_goes_on_where_the_one_before_was(run: Run) -> None:
    followed = Followed(run)
    run.train(3)
    followed.turn()
    followed.restart()
    run.train(1)
    followed.turn()
    assert followed.server.begun == [("", 0), ("id", 3)]
    assert followed.holds()


def test_a_resumed_run_is_finished_again(run: Run) -> None:
    followed = Followed(run)
    run.train(1)
    run.summarise(status="interrupted")
    followed.turn(last=True)
    followed.restart()
    run.train(1)
    run.summarise()
    followed.turn(last=True)
    assert [s["status"] for s in followed.server.summaries] == ["interrupted", "finished"]
    assert followed.server.begun == [("", 0), ("id", 1)]


def test_one_that_fails_is_named_once_and_gets_everything_later(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    followed = Followed(run)
    followed.server.down = True
    run.train(3)
    for _ in range(5):
        followed.turn()
    assert [r.message for r in caplog.records] == [
        "wandb takes no metrics (ConnectionError: no network); the run goes on, and they are sent "
        "when it does"
    ]
    assert (followed.follower.problem, unsent(run.path, "wandb")) == ("no network", 3)
    followed.server.down = False
    followed.turn()
    assert caplog.records[-1].message == "wandb takes metrics again"
    assert followed.holds()


def test_it_is_tried_again_less_and_less_often_but_at_the_end_at_once(run: Run) -> None:
    followed = Followed(run)
    followed.server.down = True
    tried = []
    for second in range(200):
        followed.clock, before = float(second), followed.server.calls
        followed.follower.turn()
        tried += [second] * (followed.server.calls - before)
    assert tried == [0, 2, 6, 14, 30, 62, 122, 182]
    followed.server.down = False
    run.train(1)
    followed.follower.turn()
    assert not followed.holds(), "not yet"
    followed.follower.turn(last=True)
    assert followed.holds()


def test_undone_steps_are_taken_back(run: Run) -> None:
    followed = Followed(run)
    run.train(5)
    run.evaluate()
    followed.turn()
    run.rewind(2)
    run.train(4)
    run.evaluate()
    followed.turn()
    assert followed.holds()
    assert read_place(run.path, "wandb").rewinds == 1


@given(
    st.lists(
        st.sampled_from(["train", "evaluate", "rewind", "turn", "restart", "down", "up", "end"]),
        max_size=40,
    )
)
def test_whatever_happens_the_tracker_has_what_the_journal_has(
    tmp_path_factory: pytest.TempPathFactory, events: list[str]
) -> None:
    run = Run(tmp_path_factory.mktemp("any") / "r")
    run.journal._db.execute("PRAGMA synchronous=OFF")
    followed = Followed(run)
    for event in events:
        match event:
            case "train":
                run.train(2)
            case "evaluate":
                run.evaluate()
            case "rewind":
                run.rewind(run.reached // 2)
            case "turn":
                followed.turn()
            case "restart":
                followed.restart()
            case "end":
                run.summarise()
                followed.turn(last=True)
            case _:
                followed.server.down = event == "down"
    followed.server.down = False
    followed.turn()
    assert followed.holds()
    followed.follower.close()
    run.journal.close()


def test_two_processes_do_not_send_the_same(run: Run) -> None:
    followed = Followed(run)
    with pytest.raises(FollowedError, match="another process sends this run to wandb"):
        followed.start()
    followed.restart()


# --- names and secrets --------------------------------------------------------------------------


def test_names_of_numbers() -> None:
    assert step_numbers(line(1)) == {"train/reward": 1.0, "learner/mismatch_kl/lag=0": 0.25}
    assert step_numbers(line(2)) == {"train/reward": 2.0}
    assert evaluation_numbers(result(4)) == {
        "eval/T0.6/version": 4,
        "eval/T0.6/pass@1": 0.25,
        "eval/T0.6/pass@16": 0.5,
        "eval/T0.6/distinct/written": 2.0,
        "eval/T0.6/self_overlap": 0.5,
        "eval/T0.6/normalised_variance": 0.125,
        "eval/T0.6/entropy": 1.0,
    }
    assert summary_numbers(SUMMARY) == {"summary/steps": 6.0, "summary/lag/max": 2.0}


def test_numbers_are_no_secrets() -> None:
    assert without_secrets({"max_per_token": 10.0, "hf_token": "x"}) == {
        "max_per_token": 10.0,
        "hf_token": HIDDEN,
    }


def test_secrets_are_hidden() -> None:
    curve = {
        "server_secret": "/keys/a",
        "clients": "/allowed",
        "server_public": "/keys/b",
        "client_secret": "/keys/c",
    }
    config = parse_config(
        {
            "model": "org/model",
            "coordinator": {"curve": curve},
            "generator": {"engine_args": {"hf_token": "hf_abc", "block_size": 4}},
            "learner": {"deepspeed": {"comet": {"nested": [{"API_KEY": "xyz"}]}}},
            "telemetry": {"trackers": [{"kind": "mlflow", "uri": "https://me:pw@host:5000/x"}]},
        }
    )
    public = public_config(config)
    text = json.dumps(public)
    for secret in ("hf_abc", "xyz", "me:pw", "/keys/a", "/keys/c"):
        assert secret not in text
    assert public["generator"]["engine_args"] == {"hf_token": HIDDEN, "block_size": 4}
    assert public["telemetry"]["trackers"][0]["uri"] == "https://host:5000/x"
    assert public["sampling"]["max_tokens"] == config.sampling.max_tokens
    assert public["tokenizer"] is None
    assert public["model"] == "org/model"


# --- the configuration --------------------------------------------------------------------------


def config_of(run: Run, *trackers: Any) -> RunConfig:
    config = parse_config(
        {
            "name": "r",
            "model": "none",
            "runs_dir": str(run.path.parent),
            "telemetry": {"trackers": list(trackers)},
        }
    )
    (run.path / "config.yaml").write_text(dump_config(config))
    return config


def test_a_name_is_enough_and_survives_config_yaml(run: Run) -> None:
    config = config_of(run, "tensorboard", {"kind": "wandb", "mode": "offline"}, "mlflow")
    kinds = [tracker.kind for tracker in config.telemetry.trackers]
    assert kinds == ["tensorboard", "wandb", "mlflow"]
    with pytest.raises(ConfigError, match="one twice"):
        config_of(run, "wandb", "wandb")
    with pytest.raises(ConfigError, match="unknown kind: choose tensorboard, wandb, mlflow"):
        config_of(run, "tensorbord")
    with pytest.raises(ConfigError, match=r"unknown key telemetry\.trackers\.0\.projectt"):
        config_of(run, {"kind": "wandb", "projectt": "x"})


def test_a_missing_package_is_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "_installed", lambda distribution: False)
    for kind in ("tensorboard", "wandb", "mlflow"):
        (tracker,) = config_of(run, kind).telemetry.trackers
        assert f"needs the package {kind}: install `asyncds[{kind}]`" in missing_package(tracker)
    with pytest.raises(UserError, match="install"):
        track_command(run.path, [])
    monkeypatch.setattr(make, "_installed", lambda distribution: distribution == "mlflow-skinny")
    assert not missing_package(tracker)


def test_track_refuses_what_it_cannot_do(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run directory"):
        track_command(tmp_path, [])
    config_of(run)
    with pytest.raises(UserError, match="has no trackers"):
        track_command(run.path, [])


# --- the real ones ------------------------------------------------------------------------------


def needs(package: str) -> None:
    pytest.importorskip(package, reason=f"`asyncds[{package}]` is not installed")


def story(run: Run, config: RunConfig) -> None:
    """Trained to 4, sent; back to 2 and on to 6 with another process, sent; finished."""
    (tracker,) = config.telemetry.trackers
    for do, last in (
        (lambda: (run.evaluate(), run.train(4), run.evaluate()), False),
        (lambda: (run.rewind(2), run.train(4), run.evaluate()), False),
        (lambda: run.summarise(), True),
    ):
        do()
        with closing(make_follower(config, tracker, run_dir=run.path)) as follower:
            follower.turn(last=last)
            assert follower.problem == ""
    assert unsent(run.path, tracker.kind) == 0


REWARDS = [(1, 1.0), (2, 2.0), (3, 3.125), (4, 4.125), (5, 5.125), (6, 6.125)]
"""After the story: what was undone is not there."""


def test_tensorboard_reads_what_was_written(run: Run) -> None:
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    story(run, config_of(run, "tensorboard"))
    read = EventAccumulator(str(run.path / "tensorboard"))
    read.Reload()
    scalars = {
        tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]
    }
    assert scalars["train/reward"] == REWARDS
    assert read.Scalars("train/reward")[0].wall_time == 1001.0
    assert scalars["eval/T0.6/pass@16"] == [(0, 0.5), (6, 0.5)]
    assert [step for step, _ in scalars["learner/mismatch_kl/lag=0"]] == [1, 3, 4, 5, 6]
    assert scalars["summary/lag/max"] == [(6, 2.0)]
    (config,) = read.Tensors("config")
    assert "    model: none" in config.tensor_proto.string_val[0].decode()
    assert read.SummaryMetadata("config").plugin_data.plugin_name == "text"


def test_tensorboard_imports_neither_torch_nor_tensorflow() -> None:
    import subprocess
    import sys

    needs("tensorboard")
    code = (
        "import sys, asyncds.telemetry.trackers.tensorboard\n"
        "print([m for m in ('torch', 'tensorflow', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_track_sends_a_run_that_had_no_tracker(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("tensorboard")
    config_of(run)
    run.train(3)
    assert track_command(run.path, ["telemetry.trackers=[tensorboard]"]) == 0
    assert capsys.readouterr().out == "tensorboard: 3 steps sent\n"
    assert track_command(run.path, ["telemetry.trackers=[tensorboard]"]) == 0
    assert capsys.readouterr().out == "tensorboard: 0 steps sent\n"


def test_wandb_offline_has_everything_on_disk(run: Run) -> None:
    needs("wandb")
    story(run, config_of(run, {"kind": "wandb", "mode": "offline"}))
    id = read_place(run.path, "wandb").run
    assert id.startswith("r-")
    files = sorted((run.path / "wandb").glob(f"offline-run-*-{id}/run-{id}.wandb"))
    assert files, "one run, whatever the number of processes"
    written = [value for file in files for value in wandb_history(file)]
    undone = [(3, 3.0), (4, 4.0)]
    rewards = [(v["step"], v["train/reward"]) for v in written if "train/reward" in v]
    assert rewards == [*REWARDS[:2], *undone, *REWARDS[2:]], "both are kept"
    passes = [(v["step"], v["eval/T0.6/pass@16"]) for v in written if "eval/T0.6/pass@16" in v]
    assert passes == [(0, 0.5), (4, 0.5), (6, 0.5)]


def wandb_history(file: Path) -> list[Mapping[str, Any]]:
    """The rows of a file that `wandb sync` would send."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for data in leveldb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            rows.append(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
            )
    return rows


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """Of W&B's log: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    place, record = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # FULL, LAST
            yield record
            record = b""


def test_mlflow_reads_what_was_written(run: Run, tmp_path: Path) -> None:
    needs("mlflow")
    from mlflow.tracking import MlflowClient

    uri = mlflow_store(tmp_path)
    story(run, config_of(run, {"kind": "mlflow", "uri": uri, "experiment": "e"}))
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("e")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == read_place(run.path, "mlflow").run
    assert (found.info.run_name, found.info.status) == ("r", "FINISHED")
    assert found.data.params["model"] == "none"
    assert found.data.params["learner.zero_stage"] == "1"
    history = client.get_metric_history(found.info.run_id, "train/reward")
    undone = [(3, 3.0), (4, 4.0)]
    assert sorted((m.step, m.value) for m in history) == sorted([*REWARDS, *undone])
    passes = client.get_metric_history(found.info.run_id, "eval/T0.6/pass_at_16")
    assert sorted(m.step for m in passes) == [0, 4, 6]
    assert found.data.metrics["summary/lag/max"] == 2.0


def mlflow_store(tmp_path: Path) -> str:
    """SQLite where all of MLflow is installed, else files."""
    try:
        import sqlalchemy  # noqa: F401

        return f"sqlite:///{tmp_path}/mlflow.db"
    except ImportError:
        return str(tmp_path / "mlruns")


@pytest.mark.parametrize(
    ("config", "package"),
    [(WandbConfig(), "wandb"), (MlflowConfig(), "mlflow"), (TensorBoardConfig(), "tensorboard")],
)
def test_every_kind_can_be_made(config: Any, package: str, tmp_path: Path) -> None:
    needs(package)
    tracker: Callable[..., Any] = make_tracker(config, run_dir=tmp_path).begin
    assert callable(tracker)
