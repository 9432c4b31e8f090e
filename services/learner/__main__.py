"""`python -m services.learner CONFIG [key=value …]`, under torchrun."""

import sys

from services.role import run_role

if __name__ == "__main__":
    sys.exit(run_role("learner", sys.argv[1:]))
