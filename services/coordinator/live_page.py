"""The live page as the coordinator serves it: whether, where, and how often it gets a new state."""

import logging
import math
import socket
from pathlib import Path

from asyncds.config.schema import RunConfig
from asyncds.protocol.records import RunStatus
from asyncds.telemetry.live.page import live_pages, no_live_page
from asyncds.telemetry.live.view import LiveView
from asyncds.telemetry.server import Page

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 1.0
"""Seconds between two states of the run that the page can show."""


class LivePage:
    """The page of one run. address: where it is, "" if it is not served."""

    def __init__(self, *, config: RunConfig, run_dir: Path) -> None:
        self._telemetry = config.telemetry
        self._view = LiveView(config=config, run_dir=run_dir)
        self._published = -math.inf
        self.address = ""

    @property
    def _why_not(self) -> str:
        """Why the page is not served, "" if it is."""
        if self._telemetry.page is False:
            return "the live page is off: set telemetry.page to true"
        if self._telemetry.page is None and not self._telemetry.loopback:
            return (
                f"the live page shows rollouts and is not served on {self._telemetry.host}: set "
                "telemetry.page to true if everyone who can reach that address may read them"
            )
        return ""

    def pages(self) -> dict[str, Page]:
        """Pages that are served beside metrics."""
        if why_not := self._why_not:
            return no_live_page(why_not)
        return live_pages(self._view, host=self._telemetry.host)

    def announce(self, address: str) -> None:
        """Say where the page is. address: of the server of `pages`."""
        if not self._why_not:
            for everywhere in ("//0.0.0.0:", "//[::]:"):
                address = address.replace(everywhere, f"//{socket.gethostname()}:")
            self.address = f"{address}/"
            log.info("live page at %s", self.address)

    def due(self, now: float) -> bool:
        """Whether the page should get another state."""
        return now - self._published >= PUBLISH_SECONDS

    def publish(self, status: RunStatus, now: float) -> None:
        """Show this state from now on."""
        self._published = now
        self._view.publish(status)

    def texts_came(self, lease: int, texts: list[str]) -> None:
        """Have the texts of a group: the prompt's, then the completions'."""
        self._view.texts_came(lease, texts)
