"""The scorer that a configuration asks for."""

from collections.abc import Mapping
from typing import Any

from asyncds.config.engines import ScoringConfig
from asyncds.scoring.pool import PoolScorer
from asyncds.scoring.process_pool import ProcessPoolScorer


def make_scorer(
    settings: ScoringConfig, *, kind: str, options: Mapping[str, Any], episodes: bool = False
) -> PoolScorer:
    """Make the scorer of a task (kind, options), to be entered with ``async with``.

    episodes: the task is an environment, which needs the backend processes. Raises
    ScorerUnavailableError if the backend is ray and the package is missing.
    """
    if settings.backend == "processes":
        return ProcessPoolScorer(kind=kind, options=options, settings=settings, episodes=episodes)
    from asyncds.scoring.ray_pool import RayScorer

    return RayScorer(kind=kind, options=options, settings=settings)
