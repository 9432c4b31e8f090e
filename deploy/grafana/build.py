"""Writes the dashboards beside it: python deploy/grafana/build.py"""

import json
from pathlib import Path

import fleet
import flow
import run
from model import dashboard

ROWS = {"run": run.ROWS, "flow": flow.ROWS, "fleet": fleet.ROWS}


def write() -> None:
    """Write a file for each dashboard."""
    for name, rows in ROWS.items():
        text = json.dumps(dashboard(name, rows), indent=2) + "\n"
        (Path(__file__).parent / f"{name}.json").write_text(text)


if __name__ == "__main__":
    write()
