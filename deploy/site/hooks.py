"""What `mkdocs.yml` needs beside MkDocs: the navigation, and links that leave docs/.

The navigation is docs/README.md: a section for each of its headings, with the pages that are linked
below it and under no heading above. A link is written as a path relative to its page, so that it
works on a repository's web page and in an editor. Pages of `OUTSIDE` are on the site under another
name; every other file outside docs/ is linked where the repository is: `REPOSITORY_URL` (such as
`https://example.com/asyncds/blob/main`), or the checkout that the site was built in.
"""

import os
import re
from pathlib import Path
from posixpath import dirname, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

OUTSIDE = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "deploy/helm/asyncds/README.md": "helm-values.md",
    "k8s/README.md": "kustomize.md",
}
"""Pages of the repository outside docs/, and what they are called on the site."""

_ROOT = Path(__file__).resolve().parents[2]
_NAMES = {f"docs/{name}": path for path, name in OUTSIDE.items()}
_LINK = re.compile(r"(?P<open>\]\()(?P<path>[^)\s#:]+)(?P<rest>#[^)\s]*)?(?=\))")
_SCHEME = "repository:"

_log = get_plugin_logger(__name__)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of `OUTSIDE`, and make the navigation."""
    for path, name in OUTSIDE.items():
        files.append(File.generated(config, name, abs_src_path=str(_ROOT / path)))
    config.nav = _navigation((_ROOT / "docs" / "README.md").read_text())
    return files


def _navigation(page: str) -> list[dict[str, str | list[dict[str, str]]]]:
    """Sections and their pages, as MkDocs takes them, from the text of docs/README.md."""
    _, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    seen = set()
    navigation: list[dict[str, str | list[dict[str, str]]]] = [{"Start": "README.md"}]
    for section in sections:
        pages = []
        for title, link in re.findall(r"\[([^\]]+)\]\(([^)#]+\.md)\)", section):
            name = OUTSIDE.get(normpath(f"docs/{link}"), link)
            if name not in seen:
                pages.append({title[0].upper() + title[1:]: name})
            seen.add(name)
        navigation.append({section.partition("\n")[0]: pages})
    return navigation


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make every link one to a page of the site, or to a file of the repository."""
    here = f"docs/{page.file.src_uri}"
    source = _NAMES.get(here, here)

    def resolved(match: re.Match[str]) -> str:
        path = normpath(f"{dirname(source)}/{match['path']}").lstrip("/")
        rest = match["rest"] or ""
        target = f"docs/{OUTSIDE[path]}" if path in OUTSIDE else path
        if target.startswith("docs/") and (file := _in_site(target, files)):
            return f"{match['open']}{relpath(file, dirname(here))}{rest}"
        if not (_ROOT / path).exists():
            _log.warning(f"{source} links to {path}, which does not exist")
        return f"{match['open']}{_SCHEME}{path}{rest}"

    return _LINK.sub(resolved, markdown)


def _in_site(path: str, files: Files) -> str | None:
    """The file of docs/ that is shown for `path`, which may be a folder; None if none is."""
    for candidate in (path, f"{path}/README.md"):
        file = files.get_file_from_path(candidate.removeprefix("docs/"))
        if file is not None and file.inclusion.is_included():
            return candidate
    return None


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Give links to files of the repository their address."""
    base = os.environ.get("REPOSITORY_URL") or relpath(".", dirname(f"site/{page.url}"))
    return html.replace(f'"{_SCHEME}', f'"{base.rstrip("/")}/')
