"""Reports as web pages: whole in one file, harmless whatever stands in the source, and never without an answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetsched.cli import main
from hetsched.replay.read_back import comparison_from
from hetsched.report.web.compare_page import compare_page
from hetsched.report.web.run_page import run_page
from hetsched.report.web.run_residency import residency
from hetsched.report.web.run_series import steps_of
from hetsched.runlog import RunLog, read_run
from tests.replay.compare_made import MACHINE, model_file, trace_file
from tests.report.web_pages import RUN_FIGURES, Reader, check_told, check_whole, figures


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


def test_a_comparison_without_results_or_bound(document: dict[str, Any]) -> None:
    rows = [{**row, "efficiency": None} for row in document["rows"]]
    html = compare_page(comparison_from({**document, "rows": rows, "bounds": []})).html()
    assert "No clairvoyant bound" in html
    assert "machine0-efficiency" not in figures(html)
    html = compare_page(comparison_from({**document, "rows": [], "bounds": []})).html()
    assert "nothing to draw" in html
    check_whole(html)
