"""Python as a tool, in real sandboxes, with calls as models write them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from asyncds.config.engines import ScoringConfig
from asyncds.config.load import parse_config
from asyncds.config.sandbox import SandboxConfig
from asyncds.config.tasks import task_options
from asyncds.sandbox.sandbox import Ran, Sandbox
from asyncds.scoring.process_pool import ProcessPoolScorer
from asyncds.tasks.base import Score, reward_parts
from asyncds.tasks.environment import Answer, Environment
from asyncds.tasks.python_tool import MOST_SHOWN, PythonTool, PythonToolTask, shown
from asyncds.tasks.registry import make_task
from tests.support.paths import ROOT


def call(code: Any, name: str = "python") -> str:
    said = json.dumps({"name": name, "arguments": {"code": code}})
    return f"<tool_call>\n{said}\n</tool_call>"


def told(*completions: str) -> list[tuple[str, ...]]:
    tool = PythonTool(Sandbox(SandboxConfig(seconds=20)))
    answers = [tool.answer(completion) for completion in completions]
    return [answer.texts if answer else () for answer in answers]


def test_a_program_is_run_and_its_output_told() -> None:
    assert told(f"Let me see. {call('print(6 * 7)')}") == [("42",)]


def test_several_calls_have_an_answer_each_and_share_nothing() -> None:
    first, second = call("x = 1\nopen('/tmp/x', 'w')\nprint(x)"), call("print(x)")
    [(one, other)] = told(first + second)
    assert one == "1"
    assert other.endswith("NameError: name 'x' is not defined")


@pytest.mark.parametrize("completion", ["The answer is 42.", "", "print(42)", '{"answer": 42}'])
def test_no_call_has_no_answer(completion: str) -> None:
    assert told(completion) == [()]


@pytest.mark.parametrize(
    ("completion", "says"),
    [
        ("<tool_call>{</tool_call>", "error: the tool call is no JSON"),
        (call("1", name="browser"), "error: the only tool is python"),
        (call(7), "error: the only tool is python"),
        (call("1 / 0"), "ZeroDivisionError: division by zero"),
        (call("x = bytearray(10**11)"), "error: the program took too much memory"),
        (call("while True: print('x')"), "error: the program printed too much"),
        (call("x = 1"), "(nothing was printed)"),
        (call("import os\nos.kill(os.getpid(), 9)"), "error: the program was ended by a signal"),
    ],
)
def test_what_went_wrong_is_told(completion: str, says: str) -> None:
    [(said,)] = told(completion)
    assert says in said
    assert len(said) < 2 * MOST_SHOWN


def test_time_is_for_all_programs_of_a_turn() -> None:
    tool = PythonTool(Sandbox(SandboxConfig(seconds=1)))
    answer = tool.answer(call("while True: pass") + call("print(1)"))
    assert answer is not None
    assert answer.texts == (
        "error: the program took too long",
        "error: no time is left for this program",
    )
    assert (tool.calls, tool.errors) == (2, 2)


def test_of_long_output_both_ends_are_shown() -> None:
    said = shown(Ran(output="a" * 9_000 + "b" * 9_000, errors="", reason=None))
    assert said == "a" * (MOST_SHOWN // 2) + "\n[…]\n" + "b" * (MOST_SHOWN // 2)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    rows = [{"prompt": f"{n} squared?", "answer": str(n * n)} for n in range(5)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "kind": "python_tool",
        "train": "rows.jsonl",
        "n_eval": 1,
        "reward": {"fn": "exact", "options": {"pattern": r"\d+"}},
    }
    return task_options(parse_config({"model": "none", "task": task}).task, tokenizer="none")


def test_an_episode_of_the_shipped_environment(options: dict[str, Any]) -> None:
    """In a real scorer process."""
    task = make_task("python_tool", **options)
    assert isinstance(task, PythonToolTask)
    assert isinstance(task, Environment)
    assert reward_parts(task) == ("exact", "calls", "tool_errors")
    row = task.rows("train")[0]
    n = int(row.fields["prompt"].split()[0])

    async def play() -> None:
        pool = ProcessPoolScorer(
            kind="python_tool", options=options, settings=ScoringConfig(), episodes=True
        )
        async with asyncio.timeout(100), pool as scorer, scorer.episode(row) as episode:
            assert (await episode.step(call(f"print({n} ** 2)"))).answer == Answer((f"{n * n}",))
            assert (await episode.step(call("1 / 0"))).answer is not None
            reply = await episode.step(f"It is {n * n}.")
            assert reply.score == Score(
                1.0, True, (f"{n * n}",), {"exact": 1.0, "calls": 2.0, "tool_errors": 1.0}
            )
            await episode.close()

    asyncio.run(play())


def test_its_own_turns_solve_a_row(options: dict[str, Any]) -> None:
    """For `asyncds task check`."""
    task = make_task("python_tool", **options)
    assert isinstance(task, PythonToolTask)
    row = task.rows("train")[0]
    episode = task.start(row)
    asked, said = task.own_turns(row)
    assert episode.step(asked) == Answer((row.fields["answer"],))
    score = episode.step(said)
    assert isinstance(score, Score)
    assert (score.correct, score.parts["calls"]) == (True, 1.0)


def test_the_example_of_the_page() -> None:
    page = (ROOT / "docs" / "environments.md").read_text()
    names: dict[str, Any] = {}
    exec(page.rpartition("```python\n")[2].partition("```")[0], names)
    turns = names["Turns"]()
    assert turns.step(call("print(1)")) == Answer(("1",))
    assert turns.step("It is 42.") == Score(1.0, True)


def test_an_episode_that_is_cut_off(options: dict[str, Any]) -> None:
    task = make_task("python_tool", **options)
    assert isinstance(task, PythonToolTask)
    episode = task.start(task.rows("train")[0])
    assert isinstance(episode.step(call("print(1)")), Answer)
    assert episode.cut_off() == Score(0.0, False, (), {"calls": 1.0, "tool_errors": 0.0})
