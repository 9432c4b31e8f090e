"""The program in an answer."""

import re

_BLOCK = re.compile(
    r"^ {0,3}```[ \t]*(\w*)[^\n`]*\n(.*?)^ {0,3}```[ \t]*$", re.MULTILINE | re.DOTALL
)
_PYTHON = ("", "python", "python3", "py")


def last_program(completion: str) -> str | None:
    """The last fenced code block that is Python, or names no language; None where there is none.

    A block that is not closed is none.
    """
    found = [code for language, code in _BLOCK.findall(completion) if language.lower() in _PYTHON]
    return found[-1] if found and found[-1].strip() else None


def fenced(program: str) -> str:
    """A program as an answer has it; a text that has a block already stays as it is."""
    return program if last_program(program) else f"```python\n{program.rstrip()}\n```"
