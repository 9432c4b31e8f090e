"""A scorer process: ``python -m asyncds.scoring.worker``, driven over its standard streams.

It limits itself before it reads any text of a model: its address space, no core dump, and for every
completion a watchdog that ends the process. The watchdog is a thread in C: neither a loop that
never returns to Python nor an orphan whose parent was killed survives it, and verifiers may use
SIGALRM for themselves. At the end of its input the process ends.
"""

import faulthandler
import os
import resource
import sys
import traceback

from asyncds.scoring.checked import checked
from asyncds.scoring.frames import Ready, Reply, Request, Setup, pack, read
from asyncds.tasks.base import InvalidScoreError, Row, Task
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
    except Exception as error:
        replies.write(pack(Ready(error=f"{type(error).__name__}: {error}")))
        return
    replies.write(pack(Ready()))
    while (request := read(requests, Request)) is not None:
        for completion in request.completions:
            reply = _judge(task, request.row, completion, setup.time_limit)
            replies.write(pack(reply))
            if reply.reason == "memory":
                return


def _judge(task: Task, row: Row, completion: str, time_limit: float) -> Reply:
    faulthandler.dump_traceback_later(time_limit, exit=True)
    try:
        return Reply(score=checked(task, task.score(row, completion)))
    except MemoryError:
        return Reply(reason="memory")
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
