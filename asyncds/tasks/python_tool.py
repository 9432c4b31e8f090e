"""Python as a tool: the model writes programs, a sandbox runs them, it reads what they print."""

import json
import time
from collections.abc import Sequence
from typing import Any

from asyncds.config.tasks import PythonToolTask as Settings
from asyncds.config.tasks import RewardedTask
from asyncds.sandbox.sandbox import Ran, Sandbox
from asyncds.tasks.base import Row, Score
from asyncds.tasks.dataset.task import DatasetTask
from asyncds.tasks.environment import Answer, Environment, Episode
from asyncds.tasks.tool_calls import ToolCall, ToolCallError, tool_calls

MOST_SHOWN = 4_000
"""Characters of what a program printed that the model is shown."""
_LAST_LINES = 3


PYTHON: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "python",
        "description": (
            "Runs a Python program and returns what it prints. Each call is a program of its "
            "own: nothing is kept between calls, and there is no network."
        ),
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "The program."}},
            "required": ["code"],
        },
    },
}
"""The tool, as a chat template is told of it (``Environment.tools``)."""


class PythonTool:
    """A tool that an environment of one's own can have, too.

    calls, errors: how many programs were asked for, and how many of them did not end well, or could
    not be read.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.calls = self.errors = 0

    def answer(self, completion: str) -> Answer | None:
        """Output of the programs that a completion calls the tool with; None where it calls none.

        All of them together take no longer than one may. Raises what ``Sandbox.run`` raises.
        """
        try:
            called = tool_calls(completion)
        except ToolCallError as error:
            self._count(failed=True)
            return Answer(f"error: {error}")
        end = time.monotonic() + self._sandbox.limits.seconds
        return Answer(tuple(self._run(call, end) for call in called)) if called else None

    def _run(self, call: ToolCall, end: float) -> str:
        code = call.arguments.get("code")
        if call.name != "python" or not isinstance(code, str):
            self._count(failed=True)
            return "error: the only tool is python, and its argument is code, a text"
        if (left := end - time.monotonic()) <= 0:
            self._count(failed=True)
            return "error: no time is left for this program"
        ran = self._sandbox.run(code, seconds=left)
        self._count(failed=ran.reason is not None)
        return shown(ran)

    def _count(self, *, failed: bool) -> None:
        self.calls += 1
        self.errors += failed


def shown(ran: Ran) -> str:
    """The result of a program in words: what it printed, and why it did not end well."""
    output = ran.output.rstrip()
    if len(output) > MOST_SHOWN:
        half = MOST_SHOWN // 2
        output = f"{output[:half]}\n[…]\n{output[-half:]}"
    last = "\n".join(ran.errors.rstrip().splitlines()[-_LAST_LINES:])[-MOST_SHOWN:]
    why = {
        None: "",
        "crash": f"error: {last or 'the program was ended by a signal'}",
        "memory": "error: the program took too much memory",
        "output": "error: the program printed too much",
        "timeout": "error: the program took too long",
    }[ran.reason]
    return "\n".join(filter(None, (output, why))) or "(nothing was printed)"


class PythonToolTask(DatasetTask, Environment):
    """Questions of data sets that may be answered with the help of Python.

    A turn that calls the tool is answered with what its programs printed. Any other turn is the
    answer, and judged by the rewards. options: fields of ``asyncds.config.tasks.PythonToolTask``.
    """

    name = "python_tool"
    role = "tool"
    tools = (PYTHON,)
    options: type[RewardedTask] = Settings

    def __init__(self, *, tokenizer: str | None = None, **options: Any) -> None:
        super().__init__(tokenizer=tokenizer, **options)
        self.sandbox = Sandbox(Settings.model_validate({"kind": self.name, **options}).sandbox)
        self.reward_parts = (*self.reward_parts, "calls", "tool_errors")

    def own_turns(self, row: Row) -> Sequence[str]:
        """A program that prints the answer, and the answer in the form that earns most."""
        forms = self.own_answers(row)
        if not forms:
            return ()
        code = f"print({forms[0]!r})"
        call = json.dumps({"name": PYTHON["function"]["name"], "arguments": {"code": code}})
        best = max(forms, key=lambda form: self.score(row, form).reward)
        return [f"<tool_call>\n{call}\n</tool_call>", best]

    def start(self, row: Row) -> Episode:
        return _Episode(self, row)


class _Episode(Episode):
    def __init__(self, task: PythonToolTask, row: Row) -> None:
        self._task, self._row = task, row
        self._python = PythonTool(task.sandbox)

    def step(self, completion: str) -> Answer | Score:
        if said := self._python.answer(completion):
            return said
        score = self._task.score(self._row, completion)
        return Score(score.reward, score.correct, score.answers, score.parts | self._parts())

    def cut_off(self) -> Score:
        return Score(0.0, False, (), self._parts())

    def _parts(self) -> dict[str, float]:
        return {"calls": self._python.calls, "tool_errors": self._python.errors}
