"""A latency table from timings, and what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from ..cost.latency import Interpolation
from ..machine.facts import DIP
from ..machine.profile import ExpertShape, LatencyTable, Source
from .timing import Timing

BETWEEN_SHARE = 0.3  # of the budget
MORE = 14  # counts in between, at most
STRAIGHT = 0.08  # how far from the line between its neighbours a count may lie without a closer look
NOISY = 0.5  # a spread above this is said in the profile


def measure_table(
    time_at: Callable[[int, float], Timing],
    shape: ExpertShape,
    tokens: Sequence[int],
    budget_s: float,
    kernel: str = "",
    copy_busy: bool = False,
) -> LatencyTable:
    """Times each token count with time_at(tokens, seconds); stops before a count that would overrun the budget.

    The budget is shared equally; what small counts leave over goes to the large ones, which need it. A share of it goes
    to counts in between, until the table predicts what was measured there.
    """
    rows: dict[int, Timing] = {}
    left_s = budget_s * (1 - BETWEEN_SHARE)
    for position, count in enumerate(tokens):
        share_s = left_s / (len(tokens) - position)
        last = rows[tokens[position - 1]].median_s if position else 0.0
        if position > 1 and 2 * 3 * last > left_s:
            break
        rows[count] = timing = time_at(count, share_s)
        left_s -= min(share_s, (timing.calls + 1) * timing.median_s)
    _repair(rows, time_at, budget_s / len(tokens))
    _fill(rows, time_at, budget_s * BETWEEN_SHARE / MORE)
    _repair(rows, time_at, budget_s / len(tokens))
    counts = sorted(rows)
    timings = [rows[count] for count in counts]
    return LatencyTable(
        shape=shape,
        tokens_P=tuple(counts),
        median_s_P=tuple(round_s(t.median_s) for t in timings),
        p10_s_P=tuple(round_s(t.p10_s) for t in timings),
        p90_s_P=tuple(round_s(t.p90_s) for t in timings),
        source=Source.MEASURED,
        kernel=kernel,
        copy_busy=copy_busy,
    )


def _fill(rows: dict[int, Timing], time_at: Callable[[int, float], Timing], budget_s: float) -> None:
    """Time the middle of every gap, and of its halves where a straight line missed it; MORE in all, small counts first.

    Kernels go in steps of a few tokens and change at some count, which doubled counts do not show.
    """
    gaps, left = list(pairwise(sorted(rows))), MORE
    while gaps and left:
        wider, gaps = gaps, []
        for low, high in wider:
            middle = round(math.sqrt(low * high))
            if not left or not low < middle < high:
                continue
            rows[middle] = time_at(middle, budget_s)
            left -= 1
            ends = Interpolation((low, high), (rows[low].median_s, rows[high].median_s))
            if abs(float(ends(middle)) / rows[middle].median_s - 1) > STRAIGHT:
                gaps += [(low, middle), (middle, high)]


def _repair(rows: dict[int, Timing], time_at: Callable[[int, float], Timing], budget_s: float) -> None:
    """Time again what takes more than twice as long as more tokens do; leave it out when it still does.

    Work on the machine beside ours, not the kernel, makes such points, and one of them would spoil the whole table.
    """
    for count in sorted(rows):
        later = [timing.median_s for tokens, timing in rows.items() if tokens > count]
        if later and rows[count].median_s * DIP > min(later):
            rows[count] = min(rows[count], time_at(count, budget_s), key=lambda timing: timing.median_s)
            if rows[count].median_s * DIP > min(later):
                del rows[count]


def table_notes(device: str, table: LatencyTable, wanted: Sequence[int]) -> list[str]:
    """What the reader of the table should know: noise, and token counts left out."""
    notes = []
    if table.spread > NOISY:
        notes.append(
            f"{device}: noisy measurement, 10th to 90th percentile up to {table.spread:.0%} of the median; "
            "measure again when the machine is idle"
        )
    lost = [str(n) for n in wanted if n not in table.tokens_P and n < table.tokens_P[-1]]
    if lost:
        notes.append(f"{device}: {', '.join(lost)} tokens left out, slower than twice as many: the machine was busy")
    if table.tokens_P[-1] < wanted[-1]:
        left = f"{device}: counts above {table.tokens_P[-1]} tokens were left out, too slow for the time given"
        notes.append(f"{left}; the last slope is continued")
    return notes


def round_s(seconds: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{seconds:.4g}")
