"""The scorer that a configuration asks for."""

from typing import Any, Literal

from asyncds.scoring.pool import PoolScorer
from asyncds.scoring.process_pool import ProcessPoolScorer


def make_scorer(
    backend: Literal["processes", "ray"],
    *,
    ray_address: str | None,
    cpus_per_worker: float,
    **settings: Any,
) -> PoolScorer:
    """A scorer to enter with ``async with``. settings: what both kinds of pool take.

    Raises ScorerUnavailableError if backend is ray and the package is missing.
    """
    if backend == "processes":
        return ProcessPoolScorer(**settings)
    from asyncds.scoring.ray_pool import RayScorer

    return RayScorer(address=ray_address, cpus_per_worker=cpus_per_worker, **settings)
