"""Runs drawn from seeds, over real sockets, come to a good end; what must always hold, holds after
every turn of the coordinator. `make simulate ARGS="--seeds 2000"` draws more of them."""

from contextlib import closing
from pathlib import Path

from tests.simulation.scenarios import LIMIT, draw, finished
from tests.simulation.simulated_links import Links, NoLinks, SocketLinks


def run(seed: int, directory: Path, links: Links) -> list[tuple[int, list[int]]]:
    """The steps of a drawn run, each with the leases it was trained on."""
    scenario = draw(seed)
    print(scenario)  # pytest shows it with a failure
    directory.mkdir()
    with closing(scenario.start(directory, links)) as sim:
        sim.run(limit=LIMIT)
        finished(sim)
        return [(step, sorted(leases)) for step, leases in sim.timeline.items()]


def test_a_drawn_run_ends_well(tmp_path: Path, drawn_seed: int) -> None:
    run(drawn_seed, tmp_path / "sockets", SocketLinks())


def test_a_seed_gives_the_same_run_with_and_without_sockets(tmp_path: Path) -> None:
    for seed in (1, 2):
        with_sockets = run(seed, tmp_path / f"sockets-{seed}", SocketLinks())
        assert with_sockets == run(seed, tmp_path / f"none-{seed}", NoLinks())
