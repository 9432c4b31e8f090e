import os
import subprocess
import sys

from asyncds.launch.children import RANK_VARIABLES

JOINS = """
import os
from asyncds.engine.process_group import join, place

join(deadline_s=30)
assert place() == (0, 1)
print("set", *(name for name in os.environ if "RANK" in name or "WORLD" in name))
"""


def test_a_group_of_one_tells_nobody_that_it_is_a_group() -> None:
    """A process started afterwards would look for the others at an address that isn't there."""
    environment = {k: v for k, v in os.environ.items() if k not in RANK_VARIABLES}
    finished = subprocess.run(
        [sys.executable, "-c", JOINS],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert finished.stdout.splitlines()[-1] == "set LOCAL_RANK"
