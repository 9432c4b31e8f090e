"""Errors that a person can mend: printed as sentences, exit code 2, no traceback."""

from collections.abc import Sequence


class UserError(Exception):
    """Problems of the input or of this machine, each a sentence that says what to change."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems: Sequence[str] = problems
