"""The command line, in this process."""

import sys
from pathlib import Path

import pytest

from asyncds.cli import main
from asyncds.user_code import DIRECTORY


class Command:
    """Runs `asyncds …` in this process; (exit code, stdout, stderr). first: words that every call
    begins with."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        *first: str,
    ) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self._first = first

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["asyncds", *self._first, *map(str, arguments)])
        # What the command sets for its own process and its children is put back after the test.
        self._monkeypatch.setattr(sys, "path", [*sys.path])
        self._monkeypatch.setenv("PYTHONSAFEPATH", "1")
        self._monkeypatch.setenv(DIRECTORY, str(Path.cwd()))
        with pytest.raises(SystemExit) as exit:
            main.main()
        out, err = self._capsys.readouterr()
        code = exit.value.code
        return (code if isinstance(code, int) else 0), out, err
