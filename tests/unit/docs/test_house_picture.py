"""docs/house.svg is the picture of the imports as they are."""

from tests.house.measure import House
from tests.house.picture import PICTURE, draw, known


def test_the_picture_is_that_of_the_code() -> None:
    assert PICTURE.read_text() == draw(House.read()), "python -m tests.house.picture draws it anew"


def test_arrows_lead_to_what_is_known_and_no_room_is_missing() -> None:
    house = House.read()
    picture = draw(house)
    assert all(f">{room}</text>" in picture for room in known(house))
    assert "launch" in known(house)["cli"]
