"""Threads of several ranks that exchange values through a real store; the group is mocked."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from asyncds.engine import process_group
from asyncds.engine.process_group import Meeting, MeetingLateError

RANKS = 3


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dist.Store:
    """What the ranks of a group share."""
    made = dist.PrefixStore("group", dist.TCPStore("127.0.0.1", 0, is_master=True))
    monkeypatch.setattr(process_group, "_get_default_store", lambda: made)
    monkeypatch.setattr(process_group, "agree_on", lambda value: "one")
    return made


@pytest.fixture
def join(store: dist.Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Meeting]:
    def joined(rank: int) -> Meeting:
        monkeypatch.setattr(process_group, "place", lambda: (rank, RANKS))
        return Meeting()

    return joined


def test_every_rank_gets_the_values_of_all_again_and_again(
    store: dist.Store, join: Callable[[int], Meeting]
) -> None:
    meetings = [join(rank) for rank in range(RANKS)]
    before = store.num_keys()
    with ThreadPoolExecutor(RANKS) as threads:
        for round in range(5):
            values = [{"rank": rank, "round": round} for rank in range(RANKS)]
            found = threads.map(lambda m, v: m.gathered(v, seconds=30), meetings, values)
            assert list(found) == [values] * RANKS
    assert store.num_keys() - before <= 2 * RANKS, "what was read does not pile up"


def test_who_does_not_come_is_named(join: Callable[[int], Meeting]) -> None:
    first, second = join(0), join(1)
    with ThreadPoolExecutor(RANKS) as threads:
        found = [threads.submit(m.gathered, "", seconds=0.2) for m in (first, second)]
        for future in found:
            with pytest.raises(MeetingLateError, match=r"learner rank .*2 did not come within 0.2"):
                future.result()


def test_a_rank_alone_meets_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "place", lambda: (0, 1))
    assert Meeting().gathered("x", seconds=0) == ["x"]
