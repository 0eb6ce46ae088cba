"""Reports as web pages: whole in one file, harmless whatever stands in the source, and never without an answer."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetsched.cli import main
from hetsched.errors import InputError
from hetsched.replay import compare
from hetsched.replay.read_back import comparison_from
from hetsched.report.web.compare_page import compare_page
from hetsched.report.web.run_page import run_page
from hetsched.report.web.run_residency import residency
from hetsched.report.web.run_series import steps_of
from hetsched.runlog import Event, RunLog, read_run
from hetsched.traces.trace import save_trace
from tests.replay.compare_made import MACHINE, geometry, model_file, random_trace, trace_file
from tests.report.chromium import Tab, browser

HOSTILE = (
    "<script>alert(1)</script>\"'><img src=https://example.com/x onerror=alert(2)> ${1+1} {{ 7 * 7 }} $a^b$ \u202e\0"
)
RUN_FIGURES = {"speed", "hits", "bytes", "lanes", "time", "error", "predicted", "asked", "layers", "residency"}


class Reader(HTMLParser):
    """What a page is made of: tags with attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated run of a small model, 200 steps."""
    folder = tmp_path_factory.mktemp("run")
    log, trace, model = folder / "run.jsonl", folder / "trace.npz", model_file(folder)
    save_trace(trace, random_trace(tokens=400))
    argv = ["simulate", "--trace", trace, "--model", model, "--hardware", MACHINE, "--bound-windows", 0, "--json"]
    argv += [
        "--decision",
        0.00001,
        "--host",
        0.0001,
        "--gpu-fraction",
        0.4,
        "--strategy",
        "on-demand-lru",
        "--log",
        log,
    ]
    assert main([str(word) for word in argv]) == 0
    return log


@pytest.fixture(scope="module")
def log(run_file: Path) -> RunLog:
    """The same, read."""
    return read_run(run_file)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """A comparison as `compare --json` writes it: five strategies, two shares, a bound."""
    strategies = "cpu-only,static-frequency,on-demand-lru,belady,hetsched"
    made = compare(
        random_trace(),
        geometry(),
        hardware=[MACHINE],
        gpu_fractions=[0.25, 0.5],
        strategies=strategies,
        bound_windows=1,
        decision_s=0.0,
    )
    return dict(json.loads(json.dumps(made.document())))


@pytest.fixture(scope="module")
def run_html(log: RunLog) -> str:
    """The page of the run."""
    return run_page(log).html()


@pytest.fixture(scope="module")
def hostile(log: RunLog, document: dict[str, Any]) -> list[str]:
    """Pages of a run and of a comparison all of whose texts are attacks."""
    return [run_page(hostile_run(log)).html(), compare_page(comparison_from(hostile_comparison(document))).html()]


@pytest.fixture(scope="module")
def compare_html(document: dict[str, Any]) -> str:
    """The page of the comparison."""
    return compare_page(comparison_from(document)).html()


def figures(html: str) -> set[str | None]:
    return {attributes.get("id") for attributes in Reader(html).all("figure")}


def check_whole(html: str) -> None:
    """Nothing runs and nothing is fetched: by what is there, and by what the policy would allow."""
    page = Reader(html)
    assert not page.all("script")
    assert not {name for _, attributes in page.tags for name in attributes if name.startswith("on")}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes
        assert "style" not in attributes
    assert not re.search(r"url\((?!#)|@import", html)
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    (css,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;" in str(policy)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(href[1:] in ids for _, a in page.tags if (href := a.get("href") or "").startswith("#"))


def check_told(html: str) -> None:
    """Every figure has a name, a text for who does not see it, a caption, and says where its numbers are from."""
    page = Reader(html)
    shown = len(page.all("figure"))
    pictures = [attributes for attributes in page.all("div") if attributes.get("role") == "img"]
    assert len(pictures) == len(page.all("figcaption")) == len(page.all("small")) == shown > 0
    assert all(len(attributes["aria-label"] or "") > 30 for attributes in pictures)
    assert len(re.findall(r"<small>(simulated|emulated|measured)</small>", html)) == shown


def test_a_run_is_one_whole_page(run_html: str) -> None:
    assert figures(run_html) == RUN_FIGURES
    check_whole(run_html)
    check_told(run_html)


def test_a_comparison_is_one_whole_page(compare_html: str) -> None:
    kinds = ("speed", "efficiency", "memory", "hits", "moved", "lanes")
    assert figures(compare_html) == {f"machine0-{kind}" for kind in kinds}
    check_whole(compare_html)
    check_told(compare_html)


def test_a_page_says_what_the_run_came_to(log: RunLog, run_html: str) -> None:
    """Figures of the summary are those of the run's own statistics."""
    text = Reader(run_html).text
    assert log.end is not None
    assert f"{log.end.tokens / log.end.seconds:.1f}" in text
    assert f"{log.end.stats['hit_rate']:.1%}" in text


def test_seconds_are_called_what_they_are(log: RunLog) -> None:
    """By the clock of the run, at the top and at each figure."""
    for clock in ("emulated", "measured"):
        html = run_page(replace(log, header=replace(log.header, clock=clock))).html()
        assert f'<p class="origin">{clock}</p>' in html
        assert html.count(f"<small>{clock}</small>") == len(RUN_FIGURES)


def test_who_lies_on_the_gpu_is_told_by_moves_and_by_key_frames_alike(log: RunLog) -> None:
    """And no layer holds more than there are slots."""
    with_frames, spans = residency(log)
    by_moves, _ = residency(replace(log, frames=[]))
    assert len(log.frames) > 1
    assert len(spans) == len(with_frames) == 6
    np.testing.assert_allclose(with_frames, by_moves)
    assert with_frames.sum(axis=(1, 2)).max() <= log.header.slots


def test_bins_leave_nothing_out(log: RunLog) -> None:
    """What bins add up to is what layers add up to."""
    steps = steps_of(log)
    bins = [steps.bins(prefill) for prefill in (False, True)]
    assert log.end is not None
    assert sum(part.sums["tokens"].sum() for part in bins) == log.end.tokens
    assert sum(part.took_s.sum() for part in bins) == pytest.approx(log.end.seconds, rel=1e-6)
    assert sum(part.sums["active"].sum() for part in bins) == sum(len(row.experts) for row in log.layers)
    copies = sum(part.sums[name].sum() for part in bins for name in ("demand_copies", "ahead_copies"))
    assert copies == sum(len(row.moves) for row in log.layers) > 0


def test_the_same_run_is_the_same_page(log: RunLog, run_html: str) -> None:
    assert run_page(log).html() == run_html


def hostile_run(log: RunLog) -> RunLog:
    """A run all of whose texts are an attack."""
    model = {**log.header.model, "name": HOSTILE}
    header = replace(log.header, model=model, machine={**log.header.machine, "name": HOSTILE, "title": HOSTILE})
    texts = {"policy": HOSTILE, "solver": HOSTILE, "forecaster": HOSTILE, "date": HOSTILE, "hetsched": HOSTILE}
    return replace(log, header=replace(header, **texts), path=HOSTILE, events=[Event(0.001, 0, None, HOSTILE, HOSTILE)])


def hostile_comparison(document: dict[str, Any]) -> dict[str, Any]:
    """A comparison all of whose texts are an attack."""
    rows = [{**row, "strategy": f"{i % 5} {HOSTILE}", "hardware": HOSTILE} for i, row in enumerate(document["rows"])]
    bounds = [{**bound, "hardware": HOSTILE} for bound in document["bounds"]]
    failure = {"hardware": HOSTILE, "gpu_fraction": 0.5, "what": HOSTILE, "why": HOSTILE}
    texts = {"model": HOSTILE, "trace": HOSTILE, "notes": [HOSTILE], "solver": HOSTILE}
    return {**document, **texts, "rows": rows, "bounds": bounds, "failures": [failure]}


def test_texts_of_others_stay_texts(hostile: list[str]) -> None:
    """In headings, tables, captions and the pictures themselves."""
    for html in hostile:
        check_whole(html)
        assert "<script>alert(1)</script>" in Reader(html).text
        assert "{{ 7 * 7 }}" in Reader(html).text


def test_a_run_that_was_cut_short(run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a hundred lines and half of one; and after the header."""
    lines = run_file.read_text().splitlines(keepends=True)
    short, none = tmp_path / "short.jsonl", tmp_path / "none.jsonl"
    short.write_text("".join(lines[:100]) + lines[100][:40])
    none.write_text(lines[0])
    for path in (short, none):
        assert main(["report", str(path)]) == 0
        assert "cut short" in path.with_suffix(".html").read_text()
    assert figures(short.with_suffix(".html").read_text()) == RUN_FIGURES
    assert "no layer" in none.with_suffix(".html").read_text()
    assert "written" in capsys.readouterr().out


def test_a_run_without_a_gpu(tmp_path: Path) -> None:
    """Nothing lay there and nothing was copied: neither is drawn, and the page says so."""
    path = tmp_path / "cpu.jsonl"
    argv = ["simulate", "--trace", trace_file(tmp_path), "--model", model_file(tmp_path), "--hardware", MACHINE]
    argv += [
        "--strategy",
        "cpu-only",
        "--gpu-fraction",
        0,
        "--decision",
        0,
        "--bound-windows",
        0,
        "--json",
        "--log",
        path,
    ]
    assert main([str(word) for word in argv]) == 0
    html = run_page(read_run(path)).html()
    assert figures(html) == RUN_FIGURES - {"bytes", "residency", "layers"}
    assert "ran on the CPU, and nothing was copied" in html


def test_one_layer_and_prefill_alone(log: RunLog) -> None:
    """The least that can be drawn: one layer of one step, and no token decoded."""
    first = log.layers[0]
    html = run_page(replace(log, layers=[first], end=None)).html()
    assert figures(html) >= RUN_FIGURES - {"bytes"}
    prefill = replace(log, layers=[row._replace(phase="prefill") for row in log.layers])
    html = run_page(prefill).html()
    assert "Nothing was decoded" in html
    assert figures(html) == RUN_FIGURES


def test_a_long_run_has_a_page_of_the_same_size(log: RunLog, run_html: str) -> None:
    """Twenty times as many steps: as many points."""
    steps, took_s = log.steps, log.layers[-1].end_s
    rows = [
        row._replace(step=row.step + i * steps, begin_s=row.begin_s + i * took_s, end_s=row.end_s + i * took_s)
        for i in range(20)
        for row in log.layers
    ]
    html = run_page(replace(log, layers=rows, frames=[])).html()
    assert len(html) < 1.3 * len(run_html)
    assert "consecutive steps" in html


@pytest.mark.parametrize(
    "text", ["", "{}", "[1, 2]", "no JSON", '{"schema": "hetsched-simulate/1"}', '{"schema": ["hetsched-compare/1"]}']
)
def test_anything_else_is_refused_in_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    assert main(["report", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "run --log" in err
    assert "compare --json" in err
    assert not path.with_suffix(".html").exists()


def test_a_page_is_not_written_over_its_source(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even where the page's name is not given."""
    path = tmp_path / "run.html"
    path.write_bytes(run_file.read_bytes())
    assert main(["report", str(path)]) == 2
    assert "is an input" in capsys.readouterr().err
    assert path.read_bytes() == run_file.read_bytes()


def test_a_comparison_comes_back_as_it_was_written(document: dict[str, Any]) -> None:
    assert comparison_from(document).document() == document


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("rows", 0, "tokens_per_s"), "fast"),
        (("rows", 0, "tokens_per_s"), float("nan")),
        (("rows", 0, "tokens_per_s"), 1e308),
        (("rows", 0, "gpu_bytes"), 10**400),
        (("rows", 0, "step_s"), 10**400),
        (("phases", "decode"), {}),
        (("tokens_scored",), 10**400),
        (("rows", 0, "strategy"), None),
        (("rows", 0, "lossless"), 1),
        (("rows", 0), 7),
        (("bounds", 0, "steps"), 1.5),
        (("bounds",), {}),
        (("facts",), None),
    ],
)
def test_a_comparison_that_is_none_is_refused_by_place(
    document: dict[str, Any], place: tuple[Any, ...], value: Any
) -> None:
    changed = json.loads(json.dumps(document))
    if place == ("facts",):
        del changed["model"]
        place = ("model",)
    else:
        inside = changed
        for step in place[:-1]:
            inside = inside[step]
        inside[place[-1]] = value
    with pytest.raises(InputError, match=re.escape(str(place[-1] if place != ("rows", 0) else "rows[0]"))):
        comparison_from(changed)


def test_a_comparison_without_results_or_bound(document: dict[str, Any]) -> None:
    rows = [{**row, "efficiency": None} for row in document["rows"]]
    html = compare_page(comparison_from({**document, "rows": rows, "bounds": []})).html()
    assert "No clairvoyant bound" in html
    assert "machine0-efficiency" not in figures(html)
    html = compare_page(comparison_from({**document, "rows": [], "bounds": []})).html()
    assert "nothing to draw" in html
    check_whole(html)


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
