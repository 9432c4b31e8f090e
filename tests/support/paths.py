"""Where things of this repository are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""
SUPPORT = Path(__file__).parent
"""What several tests share; some of it is scripts."""
