"""How a Knights and Knaves puzzle is put to a model, and how an answer is written."""

from asyncds.tasks.knights_knaves.puzzles import Assignment, Puzzle, Statement

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn")
LETTERS = tuple(name[0] for name in NAMES)
KNIGHT, KNAVE = "K", "N"
SIGNS = {"same": "=", "different": "#", "both": "&", "either": "|", "neither": "!"}

_PAIRS = {
    "same": "{} and {} are of the same kind",
    "different": "{} and {} are of different kinds",
    "both": "{} and {} are both knights",
    "either": "at least one of {} and {} is a knight",
    "neither": "{} and {} are both knaves",
}


def plain(puzzle: Puzzle) -> str:
    """The form of the tiny base model: what A, B and C say, in turn: ``B = N ; A & C ; A # B :``.

    ``=`` is followed by another person (of the same kind), or by ``K`` (is a knight) or ``N`` (is a
    knave); ``#``: of different kinds; ``&``: both knights; ``|``: at least one; ``!``: neither.
    """
    return " ; ".join(map(_plain_statement, puzzle)) + " :"


def plain_answer(knights: Assignment) -> str:
    """The kinds of A, B, C, in turn: ``K N K``."""
    return " ".join(KNIGHT if knight else KNAVE for knight in knights)


def instruction(puzzle: Puzzle) -> str:
    """The form for chat models: think in ``<think>``, answer in ``<answer>``."""
    names = NAMES[: len(puzzle)]
    said = "".join(
        f' {name} says: "{_statement(statement)}."'
        for name, statement in zip(names, puzzle, strict=True)
    )
    example = _join([f"{name} is a knight/knave" for name in names])
    return (
        "Everyone on an island is a knight or a knave. Knights always tell the truth, and knaves "
        f"always lie. You meet {_join(list(names))}.{said} Who is a knight, and who is a knave? "
        "Think step by step inside <think> </think>, then give just the answer inside <answer> "
        f"</answer>, in this form: <answer>{example}</answer>."
    )


def answer(knights: Assignment) -> str:
    """``Ada is a knight, and Ben is a knave``."""
    kinds = ("knight" if knight else "knave" for knight in knights)
    return _join([f"{name} is a {kind}" for name, kind in zip(NAMES, kinds, strict=False)])


def _plain_statement(statement: Statement) -> str:
    first, second = LETTERS[statement.first], LETTERS[statement.second]
    if first == second:
        return f"{first} = {KNIGHT if statement.relation == 'both' else KNAVE}"
    return f"{first} {SIGNS[statement.relation]} {second}"


def _statement(statement: Statement) -> str:
    first, second = NAMES[statement.first], NAMES[statement.second]
    if first == second:
        return f"{first} is a {'knight' if statement.relation == 'both' else 'knave'}"
    text = _PAIRS[statement.relation].format(first, second)
    return text[0].upper() + text[1:]


def _join(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + f", and {parts[-1]}"
