"""An environment that does what its row and the completions say, for the tests of scorers."""

import os
import time
from collections.abc import Sequence

from asyncds.tasks.base import Row, Score, Split
from asyncds.tasks.environment import Answer, Environment, Episode


def misbehave(how: str) -> object:
    """Do something that no environment should; "" and other words are harmless."""
    match how:
        case "hang":
            time.sleep(3600)
        case "die":
            os._exit(3)
        case "memory":
            bytes(2**31)
        case "raise":
            raise KeyError("broken environment")
        case "rubbish":
            return 17
        case "bytes":
            return Answer(b"not text")  # type: ignore[arg-type]
        case "surrogate":
            return Answer("\ud800")
        case "nothing":
            return Answer(())
        case "100 MB":
            return Answer("x" * 100 * 2**20)
        case "flood":
            for _ in range(100):
                os.write(1, b"x" * 2**20)
        case "nan":
            return Score(float("nan"), True)
    return None


class HostileEnvironment(Environment):
    """Rows say what start and close do; a completion says what its step does."""

    name, equivalences, equivalence = "hostile", ("written",), "written"

    def rows(self, split: Split) -> Sequence[Row]:
        return [Row(0, {})]

    def prompt(self, row: Row) -> str:
        return "?"

    def start(self, row: Row) -> Episode:
        misbehave(row.fields.get("start", ""))
        return _Episode(row.fields.get("close", ""))


class _Episode(Episode):
    def __init__(self, close: str) -> None:
        self._close = close
        self._said: list[str] = []

    def step(self, completion: str) -> Answer | Score:
        if completion == "done":
            return Score(1.0, True, (" ".join(self._said),))
        if completion == "pid":
            return Answer(str(os.getpid()))
        result = misbehave(completion)
        self._said.append(completion)
        return Answer(f"{completion}!") if result is None else result  # type: ignore[return-value]

    def cut_off(self) -> Score:
        return Score(0.25, False, (" ".join(self._said),))

    def close(self) -> None:
        misbehave(self._close)
