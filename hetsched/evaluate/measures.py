"""Measures: what forecasts and caches are judged by, from sums over sequences, with intervals over sequences.

Sums are arrays by name whose first axis is sequences; a measure is a ratio of sums, never a mean of ratios. For every
visit of a layer by one token, each of its experts is a cell: guessed or not, asked for or not.

    precision = right / guessed            recall = right / asked
    accuracy  = share of cells in which guess and demand agree
    F1 of a class = 2 * both / (guessed + asked); macro: mean of that of the active and of the inactive class
    expected calibration error = sum over bins of |sum of forecasts - demands| / cells  (Guo et al. 2017, equation 3)

Intervals: sequences are drawn anew with replacement (Efron, "Bootstrap methods", Annals of Statistics 1979).

Shapes: S sequences, R draws, B bins of the forecast probability.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..types import FloatArray

Sums = Mapping[str, FloatArray]
BINS = 15
DRAWS, SEED = 2000, 0
LOW, HIGH = 2.5, 97.5  # percentiles

QUALITY = ("cells", "asked", "guessed", "right")


def measures(sums: Sums) -> dict[str, FloatArray]:
    """Every measure that these sums allow, by its name in the document; NaN where nothing was counted.

    Sums may have any leading shape (last axis B for said_B and came_B); the measures have that shape.
    """
    found: dict[str, FloatArray] = {}
    if "guessed" in sums:
        cells, asked, guessed, right = (sums[name] for name in QUALITY)
        f1_positive = ratio(2 * right, guessed + asked)
        neither = cells - guessed - asked + right
        found |= {
            "precision": ratio(right, guessed),
            "recall": ratio(right, asked),
            "f1_positive": f1_positive,
            "f1_macro": (f1_positive + ratio(2 * neither, 2 * cells - guessed - asked)) / 2,
            "accuracy": ratio(right + neither, cells),
        }
    if "said_B" in sums:
        found["calibration_error"] = ratio(np.abs(sums["said_B"] - sums["came_B"]).sum(axis=-1), sums["cells"])
    if "active" in sums:
        found["hit_rate"] = ratio(sums["hits"], sums["active"])
        found["bytes_per_token"] = ratio(sums["bytes"], sums["tokens"])
        found["wasted_bytes_per_token"] = ratio(sums["wasted_bytes"], sums["tokens"])
    if "decode_s" in sums:
        found["tokens_per_s"] = ratio(sums["decoded"], sums["decode_s"])
    return found


def ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """`above` / `below`, NaN where there is nothing below."""
    nothing: FloatArray = np.full(np.broadcast_shapes(np.shape(above), np.shape(below)), np.nan)
    np.divide(above, below, out=nothing, where=np.asarray(below) > 0)
    return nothing


def values(sums_S: Sums) -> dict[str, float | None]:
    """The measures of all sequences together; None where nothing was counted."""
    whole = measures({name: sum_S.sum(axis=0) for name, sum_S in sums_S.items()})
    return {name: number(value) for name, value in whole.items()}


def intervals(sums_S: Sums) -> dict[str, tuple[float, float] | None]:
    """95 % intervals of the same measures over sequences; None where fewer than two sequences counted anything."""
    counted_S = np.any([sum_S.reshape(len(sum_S), -1).any(axis=1) for sum_S in sums_S.values()], axis=0)
    sequences = int(counted_S.sum())
    if sequences < 2:
        return dict.fromkeys(values(sums_S))
    even_S = np.full(sequences, 1 / sequences)
    times_RS = np.random.default_rng(SEED).multinomial(sequences, even_S, DRAWS).astype(float)
    drawn = measures({name: times_RS @ sum_S[counted_S] for name, sum_S in sums_S.items()})
    return {name: _interval(drawn_R) for name, drawn_R in drawn.items()}


def _interval(drawn_R: FloatArray) -> tuple[float, float] | None:
    finite_R = drawn_R[np.isfinite(drawn_R)]
    if not len(finite_R):
        return None
    low, high = np.percentile(finite_R, (LOW, HIGH))
    return float(low), float(high)


def number(value: FloatArray | float) -> float | None:
    """A number for JSON, None for NaN."""
    return float(value) if np.isfinite(value) else None
