"""Pages that are one file, and trust no text: only their own script runs, nothing is loaded.

The script puts texts into the page as text; the Content-Security-Policy is there for the day on
which that fails.
"""

import base64
import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncds.telemetry.files import to_json

SHARED = Path(__file__).parent


@dataclass(frozen=True)
class OneFile:
    """A page and the rules of its policy."""

    text: str
    rules: Sequence[str]

    @property
    def served(self) -> tuple[bytes, str]:
        """The page as a server sends it, and its Content-Security-Policy."""
        return self.text.encode(), "; ".join([*self.rules, "frame-ancestors 'none'"])

    @property
    def alone(self) -> str:
        """The page as a file, which names its policy itself."""
        policy = html.escape("; ".join(self.rules))
        charset = '<meta charset="utf-8">'
        return self.text.replace(
            charset,
            f'{charset}\n<meta http-equiv="Content-Security-Policy" content="{policy}">',
            1,
        )


def one_file(directory: Path, name: str, *, data: Any = None) -> OneFile:
    """A page of `name`.html, .css and .js in a directory, and of the style and script of all pages.

    data: plain values that its script finds in the element `data`, if they are not None.
    """
    read = lambda path: path.read_text("utf-8")  # noqa: E731
    style, script = (
        f"\n{read(SHARED / f'page.{kind}')}{read(directory / f'{name}.{kind}')}"
        for kind in ("css", "js")
    )
    text = read(directory / f"{name}.html")
    text = text.replace("<style></style>", f"<style>{style}</style>")
    text = text.replace("<script></script>", f"<script>{script}</script>")
    if data is not None:
        # As it stands in HTML, JSON with no `<` in it can't end the element that it is in.
        values = to_json(data).replace("<", "\\u003c")
        empty = '<script id="data" type="application/json">'
        text = text.replace(f"{empty}</script>", f"{empty}{values}</script>")
    return OneFile(
        text,
        (
            "default-src 'none'",
            f"script-src {_hash(script)}",
            f"style-src-elem {_hash(style)}",
            "style-src-attr 'unsafe-inline'",  # the charts' colours
            "connect-src 'self'",
            "img-src data:",  # an icon, so that the browser asks for none
            "base-uri 'none'",
            "form-action 'none'",
        ),
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
