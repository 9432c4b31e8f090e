"""The reward `regex`: the completion has the form that was asked for."""

import re


def regex(completion: str, pattern: str) -> float:
    """1 if the regular expression is found in the completion, else 0.

    `.` is any character, also the end of a line.
    """
    return float(re.search(pattern, completion, re.DOTALL) is not None)
