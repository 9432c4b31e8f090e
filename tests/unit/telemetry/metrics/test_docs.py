"""The page of the metrics is what the declarations say."""

from asyncds.telemetry.metrics.docs import filled
from tests.support.paths import ROOT


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs/metrics.md").read_text("utf-8")
    assert page.count("<!-- metrics: ") == 5
    again = "python -m asyncds.telemetry.metrics.docs docs/metrics.md"
    assert filled(page) == page, f"the declarations have changed: {again}"
