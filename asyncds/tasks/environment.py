"""The interface of environments: tasks of many turns, in which a completion may get an answer."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from asyncds.tasks.base import Message, Row, Score, Task

LONGEST_ANSWER = 100_000
"""Characters of what an environment may say at once."""


class Answer(msgspec.Struct, frozen=True):
    """Words of an environment to a completion, after which it is the policy's turn again.

    text: where the prompt is a text it is put after the completion as it stands. Where the prompt
    is a chat it becomes a turn in the environment's ``role``, several texts as many turns.
    """

    text: str | tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if isinstance(self.text, str) else tuple(self.text)


class Episode(Protocol):
    """One rollout in an environment. It has a process, and with it memory and time, of its own."""

    @abstractmethod
    def step(self, completion: str) -> Answer | Score:
        """Answer a completion (text without special tokens), or end the episode with its score."""
        ...

    def cut_off(self) -> Score:
        """Judge an episode that a limit has ended before it had a score."""
        return Score(0.0, False)

    def close(self) -> None:
        """Free what the episode holds. Called once, unless its process was ended."""
        return


@runtime_checkable
class Environment(Task, Protocol):
    """A task whose rollouts are episodes.

    As a task it has rows, and a prompt for each, with which an episode begins.

    role: of its answers' turns, ``"tool"`` where the model's chat template has that. tools: what
    the chat template is told of them, JSON schemas of functions. stop: texts that end a turn,
    beside the model's own end token; they are part of the completion.
    """

    role: str = "user"
    tools: Sequence[dict[str, Any]] = ()
    stop: Sequence[str] = ()

    @abstractmethod
    def start(self, row: Row) -> Episode:
        """Begin an episode of a row."""
        ...

    def own_turns(self, row: Row) -> Sequence[str]:
        """The policy's turns of an episode that solves a row, for `asyncds task check`.

        () where none is known; by default the first of the task's ``own_answers``, if it has them.
        """
        say = getattr(self, "own_answers", None)
        return () if say is None else list(say(row))[:1]

    def score(self, row: Row, completion: str) -> Score:
        """Judge an episode of one completion, for `asyncds task check`."""
        episode = self.start(row)
        try:
            said = episode.step(completion)
            return episode.cut_off() if isinstance(said, Answer) else said
        finally:
            episode.close()


def turns_of(answer: Answer, role: str) -> list[Message]:
    """An answer as turns of a chat; a tool's have the name and id that some templates ask for."""
    turns: list[Message] = []
    for i, text in enumerate(answer.texts):
        turn: dict[str, str] = {"role": role, "content": text}
        if role == "tool":
            turn |= {"name": "tool", "tool_call_id": f"{i:09d}"}
        turns.append(turn)  # type: ignore[arg-type]
    return turns
