"""The pages of docs/ build as a site without a warning: no link or anchor is broken."""

import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.browser import browser
from tests.support.paths import ROOT


def build(site: Path, **environment: str) -> None:
    # Not --quiet: it silences warnings before --strict counts them.
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", site],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("built") / "site"
    build(site, REPOSITORY_URL="https://example.com/asyncds/blob/main/")
    return site


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Its address."""
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=folder)
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def links(page: Path) -> list[str]:
    return re.findall(r'href="([^"]+)"', page.read_text())


def test_a_link_to_code_leads_to_the_repository(site: Path) -> None:
    test = "https://example.com/asyncds/blob/main/tests/chaos/test_chaos.py"
    assert test in links(site / "guarantees.html")


def test_pages_outside_docs_are_on_the_site_and_lead_into_it(site: Path) -> None:
    assert "overview.html" in links(site / "index.html")
    assert "architecture.html" in links(site / "overview.html")
    assert "kubernetes.html" in links(site / "helm-values.html")


def test_search_finds_and_nobody_else_is_asked(site: Path, tmp_path: Path) -> None:
    with served(site) as address, browser(tmp_path) as tab:
        tab.open(f"{address}/index.html?q=straggler")
        tab.until("document.querySelector('.md-search-result__link') !== null")
        found = tab.evaluate(
            "[...document.querySelectorAll('.md-search-result__link')].map(a => a.href)"
        )
        assert any("staleness.html" in link for link in found)
        assert [r for r in tab.requests if not r.startswith((address, "data:", "blob:"))] == []
