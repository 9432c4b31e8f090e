"""The house keeps its measures. ``python -m tests.house.measure`` prints all of them."""

from pathlib import Path

import pytest

from tests.house.measure import Found, House, complexities

LINES_OF_A_FILE = 450
WIDE_CLASSES = 1  # set more than 12 attributes
LONG_CONSTRUCTORS = 2  # have more than 8 arguments
COMPLEXITY = 15

KNOWN_UPWARDS = ["asyncds.cli.main -> services.role"]
"""The one command is also how each role's process is started."""
KNOWN_IMPURITIES = {
    # The journal is a file of a database; the time is written into its rows.
    "asyncds.rollout.journal_reader -> sqlite3",
    "asyncds.rollout.journal -> time",
    "asyncds.rollout.journal_file -> fcntl",
    "asyncds.rollout.journal_file -> socket",
    "asyncds.rollout.journal_file -> sqlite3",
}


@pytest.fixture(scope="module")
def house() -> House:
    return House.read()


def over(found: list[Found], limit: int) -> list[str]:
    return [str(one) for one in found if one.size > limit]


def test_no_file_is_too_long(house: House) -> None:
    long = [f for f in house.files if f.size > LINES_OF_A_FILE]
    assert long == []


def test_few_classes_are_wide(house: House) -> None:
    wide = over(house.classes, 12)
    assert len(wide) <= WIDE_CLASSES, wide


def test_few_constructors_are_long(house: House) -> None:
    long = over(house.constructors, 8)
    assert len(long) <= LONG_CONSTRUCTORS, long


def test_no_function_is_too_complex() -> None:
    assert over(complexities(), COMPLEXITY) == []


def test_imports_run_in_no_circle(house: House) -> None:
    assert house.file_cycles == []
    assert house.room_cycles == []


def test_every_room_knows_only_those_below_it(house: House) -> None:
    assert house.arrows_up == KNOWN_UPWARDS


def test_pure_rooms_know_no_process_no_socket_and_no_clock(house: House) -> None:
    assert set(house.impurities) <= KNOWN_IMPURITIES


def test_every_package_has_a_place_in_the_order_of_rooms(house: House) -> None:
    assert house.without_room == []


def test_what_is_measured_is_found(tmp_path: Path) -> None:
    """Each measure on a house of a few lines that breaks all of them."""
    sources = {
        "asyncds/__init__.py": "",
        "asyncds/algo/a.py": "import time\nfrom asyncds.fleet import b\n",
        "asyncds/fleet/b.py": "def late():\n    from asyncds.algo.a import x\n",
        "asyncds/fleet/c.py": (
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from asyncds.cli import d\n"
            "class C:\n"
            "    def __init__(self, a, *, b, c=1):\n"
            "        self.a, (self.b, self.c) = a, b\n"
            "        self.c += c\n"
            "    def later(self, other):\n"
            "        if other:\n            self.d: int = other.x\n"
        ),
        "asyncds/cli/d.py": "import asyncds.fleet.c\n",
        "services/odd/e.py": "x = 1\n",
    }
    for path, text in sources.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    house = House.read(tmp_path)
    assert house.files[0] == Found("asyncds/fleet/c.py", 10)
    assert house.classes == [Found("asyncds/fleet/c.py:C", 4)]
    assert house.constructors == [Found("asyncds/fleet/c.py:C", 3)]
    assert [one.size for one in house.functions] == [3, 3, 2]
    assert house.file_cycles == [["asyncds.algo.a", "asyncds.fleet.b"]]
    assert house.room_cycles == [["algo", "fleet"]]
    assert house.arrows_up == ["asyncds.algo.a -> asyncds.fleet.b"]
    assert house.impurities == ["asyncds.algo.a -> time"]
    assert complexities(tmp_path)[0] == Found("asyncds/fleet/c.py:later", 2)
