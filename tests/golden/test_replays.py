"""Replays come to the very figures that are frozen in replays.json, whatever computes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from .replays import CASES, FIGURES, figures, stored


@pytest.mark.parametrize("case", CASES)
def test_figures_are_those_frozen(case: str, tmp_path: Path) -> None:
    """Every strategy, to 1e-9: a change here is a change of behaviour, and needs a reason."""
    frozen, found = stored()[case], figures(case, tmp_path)
    assert list(found) == list(frozen)
    for name, values in found.items():
        assert dict(zip(FIGURES, values, strict=True)) == pytest.approx(
            dict(zip(FIGURES, frozen[name], strict=True)), rel=1e-9, abs=1e-15
        ), name
