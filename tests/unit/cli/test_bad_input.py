"""A run of each kind of broken input: `asyncds config check` ends with a sentence and exit code 2.

Nothing is started, and a run would say the same before it starts anything (`tests/e2e` has some).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from asyncds.tiny.recipe import copy_shipped
from tests.support.command import Command
from tests.unit.launch.test_model_inputs import REFUSED, Change, config, written

CHAT = {"prompt": [{"role": "user", "content": "1 + 1?"}], "answer": "2"}
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture
def asyncds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    copy_shipped(tmp_path / "model")
    return tmp_path / "model"


def settings(model: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": str(model),
        "dtype": "float32",
        "runs_dir": str(model.parent / "runs"),
        "generator": {"max_model_len": 32},
        **more,
    }


def refused(asyncds: Command, file: Path, *overrides: str, more_is_wrong: bool = False) -> str:
    """The sentence with which a file is refused, or several where more is wrong."""
    before = sorted(file.parent.rglob("*"))
    code, out, err = asyncds("config", "check", file, *overrides)
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1 or more_is_wrong, err
    assert sorted(file.parent.rglob("*")) == before, "nothing is written"
    return err


def checked(asyncds: Command, model: Path, *overrides: str, **more: Any) -> str:
    file = model.parent / "run.yaml"
    file.write_text(yaml.safe_dump(settings(model, **more)))
    return refused(asyncds, file, *overrides)


def test_what_all_of_these_begin_from_is_fine(asyncds: Command, model: Path) -> None:
    file = model.parent / "run.yaml"
    file.write_text(yaml.safe_dump(settings(model)))
    assert asyncds("config", "check", file) == (
        0,
        f"{file} is fine: a run would be written to {model.parent / 'runs' / 'run'}\n",
        "",
    )


# --- the model's own files ----------------------------------------------------------------------


def no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


MODELS: list[tuple[Change, str]] = [
    *REFUSED,
    (written("tokenizer.json", "{"), "tokenizer.json"),
    (no_tokenizer, "tokenizer"),
    (config(vocab_size=3), "token"),
    (config(max_position_embeddings=8), "positions"),
]


@pytest.mark.parametrize(("change", "sentence"), MODELS, ids=[s for _, s in MODELS])
def test_a_model_that_cant_be_used(
    asyncds: Command, model: Path, change: Change, sentence: str
) -> None:
    change(model)
    file = model.parent / "run.yaml"
    file.write_text(yaml.safe_dump(settings(model)))
    assert sentence in refused(asyncds, file, more_is_wrong=True)


def test_a_template_that_raises(asyncds: Command, model: Path) -> None:
    template = "{{ raise_exception('no system turn, please') }}"
    task = {"kind": "countdown", "prompt_style": "chat", "chat": {"template": template}}
    said = checked(asyncds, model, task=task)
    assert "a prompt can't be encoded with the tokenizer of" in said
    assert "no system turn, please" in said


def test_a_base_model_is_not_asked_in_chats(asyncds: Command, model: Path) -> None:
    said = checked(asyncds, model, task={"kind": "countdown", "prompt_style": "chat"})
    assert "has no chat template, and the task asks in chats: set task.chat.template" in said


def test_a_tokenizer_of_its_own_that_knows_more(asyncds: Command, model: Path) -> None:
    other = model.parent / "other"
    copy_shipped(other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["beyond"] = 10_000
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "the tokenizer has token ids up to 10000" in checked(
        asyncds, model, tokenizer=str(other)
    )


# --- rows of data -------------------------------------------------------------------------------

ROW = '{"prompt": "1 + 1 = 2 :", "answer": "2"}\n'
DATA: list[tuple[str, bytes, str]] = [
    ("a.jsonl", (ROW + ROW[:20]).encode(), "line 2"),
    ("a.jsonl", b"", "has no rows"),
    ("a.jsonl", b'{"prompt": "?"}\n', "has no column answer"),
    ("a.jsonl", (ROW + '{"prompt": "?", "answer": null}\n').encode(), "row 1"),
    ("a.jsonl", (ROW + '{"prompt": "", "answer": "1"}\n').encode(), "row 1"),
    ("a.jsonl", b'[{"a": 1}', "line 1"),
    ("a.json", b'{"prompt": 1', "a.json"),
    ("a.csv", "prompt,answer\nwei\xdf,1\n".encode("latin-1"), "UTF-8"),
    ("a.csv", b"prompt,answer\na,b,c\n", "line 2"),
    ("a.parquet", b"PAR1", "a.parquet"),
    ("a.jsonl.gz", b"not gzip", "a.jsonl.gz"),
    ("a.txt", ROW.encode(), "a.txt"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), DATA)
def test_data_that_cant_be_used(
    asyncds: Command, model: Path, name: str, content: bytes, sentence: str
) -> None:
    (model.parent / name).write_bytes(content)
    task = {
        "kind": "dataset",
        "train": str(model.parent / name),
        "reward": "exact",
        "prompt_style": "plain",
        "n_eval": 1,
    }
    said = checked(asyncds, model, task=task)
    assert said.startswith("task: ")
    assert sentence in said


def dataset(folder: Path, **options: Any) -> dict[str, Any]:
    """A task of eight rows."""
    rows = [{"prompt": f"{i} + {i + 1} =", "answer": str(2 * i + 1)} for i in range(8)]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"kind": "dataset", "train": str(file), "reward": "exact", "prompt_style": "plain"}
    return task | {"n_eval": 2} | options


TASKS: list[tuple[Callable[[Path], dict[str, Any]], str]] = [
    (lambda f: dataset(f, train=str(f / "typo.jsonl")), "typo.jsonl"),
    (lambda f: dataset(f, train=str(f / "nowhere" / "x")), "nowhere"),
    (lambda f: dataset(f, eval=str(f / "rows.jsonl"), n_eval=None), "0 rows of task.train"),
    (lambda f: dataset(f, n_eval=8), "leaves none to train on"),
    (lambda f: dataset(f, answer="gold"), "has no column gold"),
    (lambda f: dataset(f, prompt="Q: {question}"), "question"),
    (lambda f: dataset(f, reward="nowhere:fn"), "nowhere"),
    (lambda f: dataset(f, prompt="1 + 2 = " * 20 + "{prompt}"), "have more than the 24 tokens"),
    (lambda f: {"kind": "math", "train": [{"dataset": str(f)}]}, "task.eval is missing"),
    (lambda f: {"kind": "nowhere:Task"}, "can't be imported"),
]


@pytest.mark.parametrize(("task", "sentence"), TASKS, ids=[s for _, s in TASKS])
def test_a_task_that_cant_be_made(
    asyncds: Command, model: Path, task: Callable[[Path], dict[str, Any]], sentence: str
) -> None:
    assert sentence in checked(asyncds, model, task=task(model.parent))


def test_rows_of_ones_own_that_raise(
    asyncds: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model.parent / "locked_shelf.py").write_text(
        "from asyncds.tasks.countdown.task import CountdownTask\n\n\n"
        "class Mine(CountdownTask):\n"
        "    def rows(self, split):\n"
        "        raise OSError('the shelf with the rows is locked')\n"
    )
    monkeypatch.chdir(model.parent)
    said = checked(asyncds, model, task={"kind": "locked_shelf:Mine"})
    assert said == "task: its rows can't be made: OSError: the shelf with the rows is locked\n"


def test_a_row_that_is_left_out_is_a_note(asyncds: Command, model: Path) -> None:
    task = dataset(model.parent, bad_rows="skip")
    with (model.parent / "rows.jsonl").open("a") as file:
        file.write('{"prompt": "9 + 9 ="}\n')
    (model.parent / "run.yaml").write_text(yaml.safe_dump(settings(model, task=task)))
    code, out, err = asyncds("config", "check", model.parent / "run.yaml")
    assert (code, err) == (0, "")
    note, fine = out.splitlines()
    assert note.startswith("note: 1 of 9 rows of data set")
    assert "is fine" in fine
    _, out, err = asyncds("task", "check", model.parent / "run.yaml", "--rows=1")
    assert " ".join(out.split()).count("note: 1 of 9 rows of data set") == 1
    assert "of data set" not in err


# --- the configuration --------------------------------------------------------------------------

OVERRIDES = [
    ("learner.zerostage=1", "did you mean learner.zero_stage?"),
    ("learner.lr=fast", "learner.lr"),
    ("learner.lr=.inf", "learner.lr"),
    ("seed=99999999999999999999", "seed"),
    ("model=./models/nowhere", "models/nowhere is not there"),
    ("rollout.window=4", "raise window"),
    ("learner.ranks=500", "lower learner.ranks"),
    ("sampling.top_p=0.9", "set sampling.top_p to 1"),
    ("sampling.temperature=.inf", "sampling.temperature"),
    ("sampling.max_tokens=300", "leaves no room for a prompt"),
    ("rollout.target_lag=9", "lower target_lag"),
    ("rollout.group_size=1; algorithm.advantage.kind=grpo", "nothing can be learnt"),
    (
        "rollout.group_size=65536; sampling.max_tokens=512; generator.max_model_len=1024",
        "a message holds 16,777,216 at most",
    ),
    ("coordinator.host=0.0.0.0", "allow_unencrypted"),
    ("algorithm.correction.kind=tis", "algorithm.loss.ratio to proximal"),
    ("weights.transport=nccl", "nccl"),
    ("generator.engine_args={dtype: half}", "engine_args.dtype can't be set"),
    ("generator.engine_args={max_num_seq: 2}", "max_num_seqs"),
    ("learner.deepspeed={optimizer: {type: Adam}}", "deepspeed.optimizer can't be set"),
    ("dtype=bfloat16; learner.zero_stage=0", "learner.zero_stage 0"),
    ("nonsense", "not of the form key=value"),
    ("name='../x'", "name"),
]


@pytest.mark.parametrize(("override", "sentence"), OVERRIDES)
def test_a_setting_that_cant_be(
    asyncds: Command, model: Path, override: str, sentence: str
) -> None:
    assert sentence in checked(asyncds, model, *override.split("; "))


FILES: list[tuple[bytes, str]] = [
    (b"model: a\nlearner: {lr: 1}\nlearner: {lr: 2}\n", "lines 2 and 3"),
    ("model: wei\xdf\n".encode("latin-1"), "UTF-8"),
    (b"- a\n- b\n", "must hold a mapping"),
    (b"model: [\n", "line"),
    (b"", "must hold a mapping"),
    (b"steps: 3\n", "model is missing"),
    (b"run: nowhere.yaml\nname: s\n", "nowhere.yaml"),
    (b"run: nowhere.yaml\nname: s\narm: {}\n", "arm"),
]


@pytest.mark.parametrize(("content", "sentence"), FILES)
def test_a_file_that_is_no_configuration(
    asyncds: Command, tmp_path: Path, content: bytes, sentence: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    assert sentence in refused(asyncds, file)


def test_a_sweep_is_checked_as_one(asyncds: Command, model: Path) -> None:
    run, sweep = model.parent / "run.yaml", model.parent / "sweep.yaml"
    run.write_text(yaml.safe_dump(settings(model)))
    sweep.write_text("name: study\nrun: run.yaml\ngrid: {seed: [1, 2], learner.lr: [1e-3, 1e-4]}\n")
    code, out, err = asyncds("config", "check", sweep)
    assert (code, err) == (0, "")
    assert "is fine: a sweep of 4 runs, which would be written to" in out
    said = refused(asyncds, sweep, "weights.transport=nccl")
    assert "nccl needs GPUs" in said
    code, out, err = asyncds("run", sweep)
    assert (code, out) == (2, "")
    said = f"{sweep} is a sweep, of runs of run.yaml: start it with `asyncds sweep`, and check it "
    assert err == said + "with `asyncds config check`\n"


def test_every_problem_is_a_line(asyncds: Command, model: Path) -> None:
    file = model.parent / "run.yaml"
    file.write_text(yaml.safe_dump(settings(model)))
    code, _, err = asyncds("config", "check", file, "weights.transport=nccl", "model=/nowhere")
    assert (code, len(err.splitlines())) == (2, 2)
