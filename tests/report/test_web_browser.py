"""Reports in a browser: all of them in sight, nothing asked for, dark screens and paper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.report.chromium import Tab, browser
from tests.report.web_pages import figures


@pytest.mark.skipif(browser() is None, reason="no Chromium here: install Debian's package chromium")
def test_a_browser_shows_all_of_it(run_html: str, compare_html: str, hostile: list[str], tmp_path: Path) -> None:
    """Every figure is in sight, nothing sticks out to the side, the console is silent, and nothing is asked for."""
    boxes_of = "[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect())"
    boxes_of += ".map(b => [b.left, b.right, b.width, b.height])"
    with Tab(str(browser()), tmp_path / "profile") as tab:
        for number, html in enumerate([run_html, compare_html, *hostile]):
            path = tmp_path / f"{number}.html"
            path.write_text(html)
            for width in (320, 1280) if number < 2 else (320,):
                tab.open(path, width)
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
                boxes = tab.evaluate(boxes_of)
                assert len(boxes) >= len(figures(html)) > 0
                assert all(left >= 0 and right <= width and w > 50 and h > 15 for left, right, w, h in boxes)
                assert tab.complaints() == []
                assert [url for url in tab.requests() if not url.startswith("data:")] == [path.resolve().as_uri()]


@pytest.mark.skipif(browser() is None, reason="no Chromium here: install Debian's package chromium")
def test_a_browser_would_tell(tmp_path: Path) -> None:
    """What the test above looks for is seen where it is: a picture from elsewhere, a script, a box that is too wide."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<img src=http://127.0.0.1:9/x.png><div style='width:900px'>wide</div><script>console.log(1)</script>"
    )
    with Tab(str(browser()), tmp_path / "profile") as tab:
        tab.open(path, 320)
        assert tab.evaluate("document.documentElement.scrollWidth") > 320
        assert tab.complaints()
        assert "http://127.0.0.1:9/x.png" in tab.requests()


@pytest.mark.skipif(browser() is None, reason="no Chromium here: install Debian's package chromium")
def test_a_dark_screen_and_paper(run_html: str, tmp_path: Path) -> None:
    """Ink is light on the dark screen and dark on paper, in pictures too; no figure is split between pages."""
    path = tmp_path / "run.html"
    path.write_text(run_html)
    ink = "getComputedStyle([...document.querySelectorAll('figure svg text')].at(-1)).fill"
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    with Tab(str(browser()), tmp_path / "profile") as tab:
        seen = {}
        for media in ("screen", "print"):
            tab.call("Emulation.setEmulatedMedia", media=media, features=dark)
            tab.open(path, 800)
            seen[media] = [int(part) for part in re.findall(r"\d+", tab.evaluate(ink))[:3]]
            broken = "[...document.querySelectorAll('figure')].every(f => getComputedStyle(f).breakInside === 'avoid')"
            assert tab.evaluate(broken) == (media == "print")
        assert min(seen["screen"]) > 128 > max(seen["print"])
        assert tab.call("Page.printToPDF")["data"]
