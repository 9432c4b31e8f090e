"""A coordinator killed in the middle of a transaction: `python journal_killed_writer.py DB`.

Commits one delivered group, then begins another, says so, and waits to be killed. With `delete`
after DB: commits that the samples of groups 1 and 2 are deleted, then deletes those of 3 to 12.
"""

import sys
import time
from pathlib import Path

from asyncds.rollout.journal import Journal


def deliver(journal: Journal, lease: int, version: int = 0) -> bool:
    """Record a lease, if there is none of that number, and its group."""
    if lease >= journal.next_lease_id():
        journal.add_lease(id=lease, purpose="train", row=lease, attempt=1, evaluation=None)
    return journal.deliver(
        lease=lease,
        generator="g",
        oldest=version,
        newest=version,
        n=2,
        n_correct=1,
        reward=0.5,
        tokens=6,
        payload=b"group %d" % lease,
    )


if __name__ == "__main__":
    journal = Journal(Path(sys.argv[1]))
    if sys.argv[2:] == ["delete"]:
        with journal.transaction():
            journal.delete_samples([1, 2])
        journal.begin()
        # So that pages leave the cache for the file before there is a commit.
        journal._db.execute("PRAGMA cache_size=2")
        journal.delete_samples(range(3, 13))
    else:
        with journal.transaction():
            deliver(journal, 1)
        journal.begin()
        deliver(journal, 2)
        journal.end_lease(1, "failed", "never committed")
    print("begun", flush=True)
    time.sleep(60)
