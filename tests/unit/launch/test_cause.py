"""What is found in the logs of processes that failed."""

import pytest

from asyncds.launch.cause import cause

TRACEBACK = """Traceback (most recent call last):
  File "a.py", line 1, in <module>
    main()
"""
SHUTDOWN = """(EngineCore pid=4711) INFO 11-30 10:00:00 [core.py:1] Shutdown initiated
INFO 11-30 10:00:01 [async_llm.py:735] shutting down
[rank0]:[W1130 10:00:02.0 ProcessGroup.cpp:1] Warning: destroy_process_group() was not called
"""
ENGINE = """(EngineCore pid=12) ERROR 11-30 10:00:00 [core.py:1] EngineCore failed to start.
(EngineCore pid=12) ERROR 11-30 10:00:00 [core.py:1] Traceback (most recent call last):
(EngineCore pid=12) ERROR 11-30 10:00:00 [core.py:1]   File "b.py", line 2, in load
(EngineCore pid=12) ERROR 11-30 10:00:00 [core.py:1] ValueError: the cache needs 9 GiB
"""
FOLLOWS = "RuntimeError: Engine core initialization failed. See root cause above. Failed: {}\n"


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", ""),
        ("10:00:00.123 INFO services.learner.main: starting\nValueError: quoted\n", ""),
        (
            "10:00:00.123 ERROR services.generator.main: no file /d.jsonl\n" + SHUTDOWN,
            "no file /d.jsonl",
        ),
        (TRACEBACK + "OSError: [Errno 5] Input/output error\n" + SHUTDOWN, "OSError: [Errno 5] Inp"
            "ut/output error"),
        (TRACEBACK + "MemoryError\n" + SHUTDOWN, "MemoryError"),
        (ENGINE + TRACEBACK + FOLLOWS + SHUTDOWN, "ValueError: the cache needs 9 GiB"),
        (TRACEBACK + FOLLOWS, FOLLOWS.strip()),
        (
            TRACEBACK
            + "RuntimeError: rank\n"
            + TRACEBACK
            + "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n====\n",
            "RuntimeError: rank",
        ),
        ("Fatal Python error: Segmentation fault\n\nThread 0x1:\n", "Fatal Python error: Segmenta"
            "tion fault"),
        (
            TRACEBACK + "KeyError: 'a'\n\nDuring handling of the above exception, another "
            "exception occurred:\n\n" + TRACEBACK + "package.module.OwnError: no a\n",
            "package.module.OwnError: no a",
        ),
    ],
)  # fmt: skip
def test_the_cause(log: str, said: str) -> None:
    assert cause(log) == said
