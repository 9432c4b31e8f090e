"""`python -m services.learner CONFIG [key=value …]`, under torchrun."""

import os
import sys

from services.process import end_with_parent
from services.role import run_role

if __name__ == "__main__":
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun gives every rank a session of its own, where whoever ends torchrun misses it.
        end_with_parent()
    sys.exit(run_role("learner", sys.argv[1:]))
