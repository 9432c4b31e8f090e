"""A program that runs in the sandbox: an answer, and one of its row's unit tests.

It reads a line of JSON with the answer; then, when that has run, one with the test and with the
word to print where the test holds. Functions whose names begin with ``test``, and the classes of
unittest, are called. It imports nothing of asyncds, which may not be there.
"""

import json
import sys
import types
import unittest


def _called(names: dict, before: set) -> None:
    for name, value in [*names.items()]:
        if name in before:
            continue
        if isinstance(value, types.FunctionType) and name.startswith("test"):
            value()
        elif isinstance(value, type) and issubclass(value, unittest.TestCase):
            result = unittest.TestResult()
            unittest.defaultTestLoader.loadTestsFromTestCase(value).run(result)
            for _, trace in (*result.errors, *result.failures):
                print(trace, file=sys.stderr)
            if not result.wasSuccessful():
                raise AssertionError(name)


def _main() -> None:
    solution = types.ModuleType("solution")
    sys.modules["solution"] = solution
    exec(compile(json.loads(sys.stdin.readline()), "answer.py", "exec"), solution.__dict__)
    test, word = json.loads(sys.stdin.readline())
    before = set(solution.__dict__)
    exec(compile(test, "test.py", "exec"), solution.__dict__)
    _called(solution.__dict__, before)
    print(f"\n{word}")


if __name__ == "__main__":
    _main()
