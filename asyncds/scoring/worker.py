"""A scorer process: ``python -m asyncds.scoring.worker``, driven over its standard streams.

It limits itself before it reads any text of a model: its address space, no core dump, and for every
action a watchdog that ends the process. The watchdog is a thread in C: neither a loop that
never returns to Python nor an orphan whose parent was killed survives it, and verifiers may use
SIGALRM for themselves. At the end of its input the process ends.
"""

import faulthandler
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial

from asyncds.scoring.checked import AnswerTooLongError, checked, checked_answer
from asyncds.scoring.frames import (
    AnyRequest,
    Begin,
    Close,
    CutOff,
    EpisodeRequest,
    Ready,
    Reply,
    Request,
    Setup,
    Step,
    pack,
    read,
)
from asyncds.tasks.base import InvalidScoreError, Row, Task, sandbox_problem
from asyncds.tasks.environment import Answer, Environment, Episode
from asyncds.tasks.mixture import own, tasks_in
from asyncds.tasks.registry import make_task
from asyncds.user_code import find_user_code

WATCHDOG_EXIT = 1
"""The exit code when a completion takes too long (faulthandler's); nothing else exits with it."""


def main() -> None:
    """Make the task and judge what comes in, until there is no more."""
    find_user_code()
    # Frames travel on copies of standard input and output, out of the way of the verifier's own
    # reading (nothing) and printing (to standard error).
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    setup = read(requests, Setup)
    if setup is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (setup.memory_limit, setup.memory_limit))
    try:
        task = make_task(setup.kind, **setup.options)
        problem = next(filter(None, map(sandbox_problem, tasks_in(task).values())), "")
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        replies.write(pack(Ready(error=problem)))
        return
    replies.write(pack(Ready()))
    player = Player(task)
    while (request := read(requests, AnyRequest)) is not None:
        for action in _actions(task, player, request):
            reply = _guarded(action, setup.time_limit)
            replies.write(pack(reply))
            if reply.reason == "memory":
                return


def _actions(task: Task, player: "Player", request: AnyRequest) -> Iterator[Callable[[], Reply]]:
    """Actions that are asked for, one for every reply."""
    if not isinstance(request, Request):
        yield partial(player.play, request)
        return
    for completion in request.completions:
        yield partial(_judge, task, request.row, completion)


def _judge(task: Task, row: Row, completion: str) -> Reply:
    task, row = own(task, row)
    return Reply(score=checked(task, task.score(row, completion)))


class Player:
    """Plays episodes of an environment, one at a time."""

    def __init__(self, task: Task) -> None:
        self._all = self._task = task
        self._episode: Episode | None = None

    def play(self, request: EpisodeRequest) -> Reply:
        """Do what is asked; raises whatever the environment raises."""
        match request:
            case Begin(row=row):
                self._task, row = own(self._all, row)
                if not isinstance(self._task, Environment):
                    raise InvalidScoreError("the task is no environment")
                self._episode = self._task.start(row)
            case Step(completion=completion):
                said = checked_answer(self._task, self._open().step(completion))
                return Reply(answer=said) if isinstance(said, Answer) else Reply(score=said)
            case CutOff():
                return Reply(score=checked(self._task, self._open().cut_off()))
            case Close():
                episode, self._episode = self._episode, None
                if episode is not None:
                    episode.close()
        return Reply()

    def _open(self) -> Episode:
        if self._episode is None:
            raise InvalidScoreError("no episode was started")
        return self._episode


def _guarded(action: Callable[[], Reply], time_limit: float) -> Reply:
    """The reply of an action, under the watchdog, or why there is none."""
    faulthandler.dump_traceback_later(time_limit, exit=True)
    try:
        return action()
    except MemoryError:
        return Reply(reason="memory")
    except AnswerTooLongError as error:
        return Reply(reason="output", detail=str(error))
    except InvalidScoreError as error:
        return Reply(reason="invalid", detail=str(error)[:500])
    except Exception as error:
        return Reply(reason="exception", detail=f"{type(error).__name__}: {error}"[:500])
    finally:
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        sys.exit(os.EX_SOFTWARE)
