"""The live page: one file for a browser, which asks this server for JSON and nobody for anything.

It shows what models wrote, so it trusts no text: the script puts texts into the page as text, and
the Content-Security-Policy lets no script run but the page's own, and nothing be loaded from
elsewhere.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from asyncds.config.operation import LOOPBACK
from asyncds.telemetry.live.view import LiveView
from asyncds.telemetry.server import Page, Reply


def live_pages(view: LiveView, *, host: str) -> dict[str, Page]:
    """The pages of a server bound to `host`, by path.

    On loopback a request must name loopback as its host: a page from elsewhere, whose name was made
    to resolve to this machine (DNS rebinding), reads nothing.
    """
    html, policy = _page()

    def page(headers: Mapping[str, str]) -> Reply:
        return _reply(html, "text/html; charset=utf-8", policy)

    def json(read: Callable[[], bytes]) -> Page:
        return lambda headers: _reply(read(), "application/json", "default-src 'none'")

    pages = {"/": page, "/status.json": json(view.status), "/details.json": json(view.details)}
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


def _page() -> tuple[bytes, str]:
    """The page, and its policy."""
    read = lambda name: (Path(__file__).parent / name).read_text("utf-8")  # noqa: E731
    style, script = f"\n{read('../page.css')}{read('live.css')}", f"\n{read('live.js')}"
    html = read("live.html").replace("<style></style>", f"<style>{style}</style>")
    html = html.replace("<script></script>", f"<script>{script}</script>")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(script)}",
            f"style-src-elem {_hash(style)}",
            "style-src-attr 'unsafe-inline'",  # the charts' colours
            "connect-src 'self'",
            "img-src data:",  # an icon, so that the browser asks for none
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    return html.encode(), policy


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


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
