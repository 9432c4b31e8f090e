"""Episodes that `asyncds task check` plays: turns that are given, and what an environment says."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from asyncds.scoring.frames import Reply
from asyncds.scoring.process_pool import ProcessPoolScorer
from asyncds.tasks.base import Row


@dataclass(kw_only=True)
class PlayedEpisode:
    """An episode. said: words and whether they are the policy's, in order. seconds: of each step.

    ended: whether the environment ended it; else a limit would have, and reply is of that.
    """

    row: Row
    said: list[tuple[str, bool]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    ended: bool = False
    reply: Reply = field(default_factory=Reply)

    @property
    def text(self) -> str:
        """The policy's words."""
        return "\n".join(words for words, own in self.said if own)


async def play(scorer: ProcessPoolScorer, row: Row, turns: Sequence[str]) -> PlayedEpisode:
    """Play an episode of a row, in a process of its own, until it has a score or turns are out."""
    played = PlayedEpisode(row=row)
    async with scorer.episode(row) as episode:
        for turn in turns:
            started = time.monotonic()
            played.reply = await episode.step(turn)
            played.seconds.append(time.monotonic() - started)
            played.said.append((turn, True))
            if played.reply.answer is None:
                played.ended = True
                break
            played.said += [(text, False) for text in played.reply.answer.texts]
        else:
            played.reply = await episode.cut_off()
        closed = await episode.close()
        if closed.reason is not None:
            played.reply = closed
    return played
