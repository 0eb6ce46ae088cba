"""The two ratios by which MoE-SpAc (arXiv 2603.09983) sums itself up, for hetsched: cell by cell, and their means.

Over the best speculative baseline, and over the mean of the standard ones, in tokens/s at equal bytes. Each system
has the number of drafts that suits it best in a cell; hetsched chooses its own where that was among what was run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from math import exp, log
from typing import Any, NamedTuple

from .cell import SpeculativeRow
from .contestants import MOE_SPAC, OURS, PAPERS
from .drafts import AUTO, drafts_text

CellKey = tuple[str, str, float]  # experts' precision, machine, share of the experts


class Verdict(NamedTuple):
    """One cell. Ratios are None where a side has no row.

    `roof_tokens_per_s`: what no strategy exceeds here, with every expert on the GPU and the best number of drafts of
    those run; None on a machine without a GPU.
    """

    dtype: str
    hardware: str
    gpu_fraction: float
    tokens_per_s: float
    drafts: str
    best_speculative: str | None
    over_best_speculative: float | None
    over_standard_mean: float | None
    over_moe_spac: float | None
    roof_tokens_per_s: float | None
    roof_over_best_speculative: float | None


class Headline(NamedTuple):
    """Geometric means over the cells; None where no cell has both sides."""

    over_best_speculative: float | None
    over_standard_mean: float | None
    over_moe_spac: float | None
    cells: list[Verdict]

    @classmethod
    def over(cls, cells: list[Verdict]) -> Headline:
        """The means of these cells."""
        return cls(
            _geometric_mean(verdict.over_best_speculative for verdict in cells),
            _geometric_mean(verdict.over_standard_mean for verdict in cells),
            _geometric_mean(verdict.over_moe_spac for verdict in cells),
            cells,
        )

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**self._asdict(), "cells": [verdict._asdict() for verdict in self.cells]}


def cell_of(row: SpeculativeRow) -> CellKey:
    """Where a row was run."""
    return row.dtype, row.hardware, row.gpu_fraction


def counted(rows: Iterable[SpeculativeRow]) -> str:
    """Which of the systems that were run stand on either side of the ratios, for people."""
    ran = {row.system for row in rows}
    baselines = [contestant for contestant in PAPERS if contestant.is_baseline and contestant.system in ran]
    speculative, standard = (
        ", ".join(contestant.system for contestant in baselines if contestant.speculates == way) or "none was run"
        for way in (True, False)
    )
    return (
        f"best speculative: the fastest of {speculative}, each with its best number of drafts; standard: the mean of "
        f"{standard}; {MOE_SPAC} counts in neither and has a column of its own"
    )


def headline_of(rows: Sequence[SpeculativeRow], roofs: dict[tuple[str, str], float]) -> Headline:
    """The ratios of rows that stand together by cell. `roofs`: tokens/s by precision and machine."""
    groups = groupby(rows, key=cell_of)
    return Headline.over([found for cell, group in groups if (found := _verdict(cell, list(group), roofs))])


def _verdict(cell: CellKey, rows: list[SpeculativeRow], roofs: dict[tuple[str, str], float]) -> Verdict | None:
    baselines = {contestant.system: contestant for contestant in PAPERS if contestant.is_baseline}
    ours = _best(rows, OURS)
    if ours is None:
        return None
    speculative = [row for row in rows if row.system in baselines and baselines[row.system].speculates]
    standard = [row.tokens_per_s for row in rows if row.system in baselines and not baselines[row.system].speculates]
    best, spac = max(speculative, key=lambda row: row.tokens_per_s, default=None), _best(rows, MOE_SPAC)
    roof, speed = roofs.get(cell[:2]), ours.tokens_per_s
    return Verdict(
        *cell,
        speed,
        ours.drafts,
        f"{best.system} with {best.drafts}" if best else None,
        _ratio(speed, best.tokens_per_s if best else 0.0),
        _ratio(speed, sum(standard) / len(standard) if standard else 0.0),
        _ratio(speed, spac.tokens_per_s if spac else 0.0),
        roof,
        _ratio(roof, best.tokens_per_s if best else 0.0),
    )


def _best(rows: Iterable[SpeculativeRow], system: str) -> SpeculativeRow | None:
    """A system's row: where it chose its drafts itself, that one; else its fastest."""
    own = [row for row in rows if row.system == system]
    chosen = [row for row in own if row.drafts == drafts_text(AUTO)]
    return max(chosen or own, key=lambda row: row.tokens_per_s, default=None)


def _ratio(speed: float | None, other: float) -> float | None:
    return None if speed is None or other <= 0 else speed / other


def _geometric_mean(ratios: Iterable[float | None]) -> float | None:
    known = [log(ratio) for ratio in ratios if ratio is not None and ratio > 0]
    return exp(sum(known) / len(known)) if known else None
