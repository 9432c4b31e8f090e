"""The live page: one file for a browser, which asks this server for JSON and nobody for anything.

Another, to read rollouts, holds what it shows.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from asyncds.config.operation import LOOPBACK
from asyncds.telemetry.live.view import LiveView
from asyncds.telemetry.one_file import one_file
from asyncds.telemetry.server import Page, Reply


def live_pages(view: LiveView, *, host: str) -> dict[str, Page]:
    """The pages of a server bound to `host`, by path.

    On loopback a request must name loopback as its host: a page from elsewhere, whose name was made
    to resolve to this machine (DNS rebinding), reads nothing.
    """
    live = one_file(Path(__file__).parent, "live").served

    def html(read: Callable[[], tuple[bytes, str]]) -> Page:
        def page(headers: Mapping[str, str]) -> Reply:
            text, policy = read()
            return _reply(text, "text/html; charset=utf-8", policy)

        return page

    def json(read: Callable[[], bytes]) -> Page:
        return lambda headers: _reply(read(), "application/json", "default-src 'none'")

    pages = {
        "/": html(lambda: live),
        "/rollouts": html(view.rollouts),
        "/status.json": json(view.status),
        "/details.json": json(view.details),
    }
    return {path: _local(page) for path, page in pages.items()} if host in LOOPBACK else pages


def no_live_page(why: str) -> dict[str, Page]:
    """Where it is not served, and what to do about it."""
    return {"/": lambda headers: Reply(status=403, body=f"{why}\n".encode())}


def _local(page: Page) -> Page:
    def checked(headers: Mapping[str, str]) -> Reply:
        name, _, port = headers.get("Host", "").rpartition(":")
        if (name if port.isdigit() else headers.get("Host", "")).strip("[]") in LOOPBACK:
            return page(headers)
        return Reply(status=403, body=b"ask for this page under http://127.0.0.1 or localhost\n")

    return checked


def _reply(body: bytes, content_type: str, policy: str) -> Reply:
    return Reply(
        body=body,
        content_type=content_type,
        headers={
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        },
    )
