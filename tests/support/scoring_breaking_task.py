"""A task whose verifier does what the completion says, for the tests of scorers."""

import ctypes
import os
import sys
import time
from collections.abc import Sequence
from fractions import Fraction

from asyncds.tasks.base import Row, Score, Split, Task


class BreakingTask(Task):
    name = "breaking"
    equivalences = ("written",)
    equivalence = "written"

    def __init__(self, *, start: str = "normal") -> None:
        if start == "fail":
            raise ValueError("no such data")
        if start == "hang":
            time.sleep(3600)

    def rows(self, split: Split) -> Sequence[Row]:
        return []

    def prompt(self, row: Row) -> str:
        return str(row.fields["word"])

    def score(self, row: Row, completion: str) -> Score:
        match completion:
            case "hang":
                time.sleep(3600)
            case "hang in C":
                # Holds the interpreter's lock: no Python code runs in the worker any more.
                ctypes.PyDLL(None).sleep(3600)
            case "abort":
                os.abort()
            case "sys.exit":
                sys.exit(1)
            case "exit":
                os._exit(0)
            case "memory":
                bytes(2**31)
            case "raise":
                raise KeyError("broken verifier")
            case "None":
                return None  # type: ignore[return-value]
            case "nan" | "inf" | "1e39":
                return Score(float(completion), True)
            case "text":
                return Score("1", True)  # type: ignore[arg-type]
            case "two answers":
                return Score(1.0, True, ("a", "b"))
            case "long answer":
                return Score(1.0, True, ("a" * 20_000,))
            case "unknown part":
                return Score(1.0, True, parts={"x": 1.0})
            case "flood":
                for _ in range(100):
                    os.write(1, b"x" * 2**20)
            case "fraction":
                return Score(Fraction(1, 2), True)  # type: ignore[arg-type]
            case "print":
                print("\x00\x00\x00\x00 not a frame", flush=True)
                os.write(1, b"nor this")
            case "read":
                return Score(1.0, True, (repr(sys.stdin.read()),))
            case "pid":
                return Score(1.0, True, (str(os.getpid()),))
            case "modules":
                heavy = {"torch", "transformers", "vllm", "numpy"} & set(sys.modules)
                return Score(1.0, True, (",".join(sorted(heavy)),))
        return Score(0.5, True, (f"{row.index} {row.fields['word']} {completion}",))
