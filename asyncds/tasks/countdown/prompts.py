"""How a Countdown problem is put to a model."""

from asyncds.tasks.countdown.enumeration import Numbers


def plain(numbers: Numbers, target: int) -> str:
    """The form of the tiny base model: ``2 5 10 = 30 :``."""
    return f"{' '.join(map(str, numbers))} = {target} :"


def instruction(numbers: Numbers, target: int) -> str:
    """The form for chat models: think in ``<think>``, answer in ``<answer>``."""
    return (
        f"You have the numbers {', '.join(map(str, numbers))}. Write an arithmetic expression "
        f"that equals {target}. Use every number exactly once, and only the operations "
        "+, -, *, / and parentheses. Think step by step inside <think> </think>, then give just "
        "the expression inside <answer> </answer>, for example <answer>(1 + 2) / 3</answer>."
    )
