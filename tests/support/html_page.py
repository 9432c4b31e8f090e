"""A page as a browser would read it: its tags, its text, and what it links to."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """tags, in order. text: all of it. links: href, src and action of every tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("href", "src", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data
