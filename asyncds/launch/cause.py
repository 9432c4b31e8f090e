"""Why a process ended, read from its log."""

import re

_OURS = re.compile(r"\d\d:\d\d:\d\d\.\d{3} (?:ERROR|CRITICAL) \S+: (?P<text>.+)")
"""A line that our own processes log as an error (services.process.start_logging)."""
_EXCEPTION = re.compile(r"(?P<text>[A-Za-z_][\w.]*(?:: .*)?)$")
"""The line that ends a traceback."""
_FATAL = re.compile(r"(?P<text>Fatal Python error: .*|.*terminate called after .*)")
_PREFIX = re.compile(r"(?:\(\w+ pid=\d+\) )?(?:ERROR \d\d-\d\d \d\d:\d\d:\d\d \[\S+\] )?")
"""The prefix that vLLM gives the lines of its engine's process."""
_CONSEQUENCE = re.compile(r"root cause above|ChildFailedError|EngineDeadError|KeyboardInterrupt")
"""Errors that only say that another process has failed: vLLM's of its engine, torchrun's of a
rank."""


def cause(log: str) -> str:
    """The last line of `log` that says what went wrong, or "".

    That is an exception, an error that asyncds logged, or how the interpreter died. An error that
    follows from another process's is taken only where there is no other.
    """
    found = ""
    consequence = ""
    in_traceback = False
    for raw in log.splitlines():
        line = _PREFIX.sub("", raw, count=1).rstrip()
        match = _OURS.match(line) or _FATAL.match(line)
        if line.startswith("Traceback (most recent call last)"):
            in_traceback = True
        elif in_traceback and line and not line[0].isspace():
            match, in_traceback = match or _EXCEPTION.match(line), False
        if match and _CONSEQUENCE.search(match["text"]):
            consequence = match["text"]
        elif match:
            found = match["text"]
    return found or consequence
