"""A role for tests of processes that stay warm: does what the configuration's file says.

`python warm_role.py REPORT`. The file that an assignment names holds one word: `well` (exit code
0), `badly` (1, and the process ends), `never` (works on it until it is killed).
"""

import json
import os
import sys
import time
from pathlib import Path

with os.fdopen(int(sys.argv[1]), "w") as report:
    for line in sys.stdin:
        file, *_ = json.loads(line)
        word = Path(file).read_text()
        Path(file).with_suffix(".pid").write_text(str(os.getpid()))
        deadline = time.monotonic() + 60
        while word == "never" and time.monotonic() < deadline:
            time.sleep(0.01)
        print(0 if word == "well" else 1, file=report, flush=True)
        if word != "well":
            sys.exit(1)
