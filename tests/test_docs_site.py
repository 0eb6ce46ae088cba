"""The documentation builds strictly, without a network, and its pages ask nobody for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOBODY = "http://127.0.0.1:9"  # a proxy that refuses: a build that wants the network fails
LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}


class Loaded(HTMLParser):
    """What a page makes a browser load; where its links lead is no part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") in ("canonical", "prev", "next"):
            return
        if value := values.get(LOADING.get(tag, "")):
            self.found.append(value)


def loaded(page: Path) -> list[str]:
    parser = Loaded()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by `mkdocs build --strict`, in which a broken link, anchor or name of the reference is an error."""
    pytest.importorskip("material", reason="the documentation's tools are not here: pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOBODY)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **proxies}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_page_is_there(site: Path) -> None:
    """Of each file in docs/ a page that the menu names, and of what they link to: figures, decisions, sources."""
    menu = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / page.with_suffix(".html").name).is_file()
        assert page.stem == "index" or f'href="{page.stem}.html"' in menu
    for linked in ("MEASUREMENTS.html", "DECISIONS.html", "hetsched/policy.py", "examples/write_a_solver.py"):
        assert (site / "project" / linked).is_file()


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    """Scripts, styles, fonts and pictures are the site's own."""
    pages = sorted(site.rglob("*.html"))
    asked = {value for page in pages for value in loaded(page)}
    assert len(asked) > 5
    assert [value for value in asked if re.match(r"(\w+:)?//", value)] == []
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.search(r"url\(['\"]?(https?:)?//|@import", styles)


def test_what_pages_load_is_there(site: Path) -> None:
    for page in sorted(site.glob("*.html")):
        for value in loaded(page):
            path = value.partition("?")[0].partition("#")[0]
            assert page.name == "404.html" or value.startswith("data:") or (page.parent / path).is_file(), (page, value)


def test_the_reference_is_made_of_docstrings(site: Path) -> None:
    """What users call, what plug-ins are, and the laws they keep."""
    for page, words in {
        "reference.html": ("hetsched.integrations.transformers.attach", "follow_cache", "hetsched.scheduler.Scheduler"),
        "reference-contracts.html": ("hetsched.policy.Policy", "hetsched.formats.base.Format", "has exactly one Run"),
        "reference-laws.html": ("never_above_the_incumbent", "forecasts_are_calibrated", "lanes_overlap"),
    }.items():
        text = (site / page).read_text(encoding="utf-8")
        assert [word for word in words if word not in text] == []


def test_outside_addresses_are_seen(tmp_path: Path) -> None:
    """The check can fail: a script from elsewhere is found, a link to elsewhere is nobody's business."""
    page = tmp_path / "page.html"
    page.write_text('<a href="https://a.b"></a><script src="https://c.d/e.js"></script><link rel=canonical href="//x">')
    assert loaded(page) == ["https://c.d/e.js"]
