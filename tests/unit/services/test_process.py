"""What every role's process does around its work."""

import subprocess
import sys

import psutil
import pytest

CHILD = """
import time
from services.process import end_with_parent
end_with_parent()
print("ready", flush=True)
time.sleep(600)
"""
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is a signal on Linux only")
def test_a_process_in_a_session_of_its_own_ends_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    try:
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        parent.wait(30)
        _, alive = psutil.wait_procs([child], timeout=30)
        assert not alive
    finally:
        parent.kill()
        parent.stdout.close()
        if child.is_running():
            child.kill()
