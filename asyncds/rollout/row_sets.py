"""Sets of rows: the parts that a split consists of, such as the tasks of a mixture."""

from collections.abc import Sequence


def set_of(sets: Sequence[tuple[str, int]], row: int) -> str:
    """The name of the set that a row is of, "" where there is none.

    sets: (name, rows) of each, in the order of the rows.
    """
    for name, rows in sets:
        row -= rows
        if row < 0:
            return name
    return ""
