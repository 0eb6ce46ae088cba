"""Pictures: nothing lies over anything else, and none is nearly empty."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hetsched.dispatch.contest import Row
from hetsched.replay import compare
from hetsched.replay.result import Comparison
from hetsched.report.compare_plot import draw_hits, left_out, plot_comparison
from hetsched.report.solve_plot import draw_rows
from tests.replay.compare_made import MACHINE, geometry, random_trace


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """As many rows as there are strategies, at one fraction."""
    made = compare(random_trace(), geometry(), hardware=[MACHINE], strategies="cpu-only", bound_windows=0)
    rows = [replace(made.rows[0], strategy=f"a-strategy-with-a-name-{i}", hit_rate=i / 30) for i in range(22)]
    return replace(made, rows=rows)


def boxes(figure: Any) -> Any:
    """The renderer of a drawn figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def test_the_title_leaves_the_legend_alone(comparison: Comparison) -> None:
    """Title, axes and legend have places of their own, inside the figure."""
    figure = draw_hits(comparison)
    renderer = boxes(figure)
    title = figure._suptitle.get_window_extent(renderer)
    legend = figure.legends[0].get_window_extent(renderer)
    axes = figure.axes[0].get_tightbbox(renderer)
    assert not title.overlaps(legend)
    assert not axes.overlaps(legend)
    assert figure.bbox.contains(legend.x0, legend.y0)
    assert figure.bbox.contains(legend.x1, legend.y1)


def test_one_fraction_has_no_line_over_memory(comparison: Comparison, tmp_path: Path) -> None:
    """The picture is left out, and why can be said; with two fractions it is drawn."""
    assert [path.name for path in plot_comparison(comparison, tmp_path)] == ["tokens_per_s.png", "hit_rate.png"]
    assert "two fractions" in left_out(comparison)
    other = [replace(row, gpu_fraction=0.5, gpu_bytes=2 * row.gpu_bytes) for row in comparison.rows]
    both = replace(comparison, rows=[*comparison.rows, *other])
    assert left_out(both) == ""
    assert len(plot_comparison(both, tmp_path)) == 3


def test_names_of_solvers_do_not_overlap() -> None:
    """Ten strategies that are equally good and fast: ten names, each readable."""
    rows = [Row(f"solver-{i}", 1.0, 1.0, 1.0, 1e-5, 1e-4, 0) for i in range(10)]
    figure = draw_rows(rows)
    renderer = boxes(figure)
    texts = [text for text in figure.legends[0].get_texts() if text.get_text()]
    assert sorted(text.get_text() for text in texts) == sorted(row.solver for row in rows)
    extents = [text.get_window_extent(renderer) for text in texts]
    assert not any(a.overlaps(b) for i, a in enumerate(extents) for b in extents[:i])
    assert not any(figure.axes[0].get_tightbbox(renderer).overlaps(extent) for extent in extents)
