"""`python -m services.coordinator CONFIG [key=value …]`."""

import sys

from services.role import run_role

if __name__ == "__main__":
    sys.exit(run_role("coordinator", sys.argv[1:]))
