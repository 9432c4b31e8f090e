"""`python -m services.generator [--name NAME] [--index N] CONFIG [key=value …]`."""

import argparse
import socket
import sys

from services.role import run_role

# vLLM starts its engine in processes that import this module again.
if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="generator")
    parser.add_argument("--name", default=socket.gethostname(), help="unique in the fleet")
    parser.add_argument("--index", type=int, default=0, help="its place among the metrics ports")
    parser.add_argument("arguments", nargs="+", metavar="CONFIG [key=value …]")
    given = parser.parse_args()
    sys.exit(run_role("generator", given.arguments, name=given.name, index=given.index))
