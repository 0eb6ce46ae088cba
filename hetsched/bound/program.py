"""The clairvoyant bound of one window as a linear program. Why it is a relaxation: docstring of `window_program`.

Shapes: W steps of the window, L layers, E experts, P = W * L positions (one layer of one step), U uses (an active
expert at a position), in order of position.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..types import FloatArray, IntArray
from .envelope import Envelope
from .lp import LinearProgram

UNIT_S = 1e-3  # of the program's times: solvers' absolute tolerances suit numbers near 1


class Uses(NamedTuple):
    """Every use in a window. `previous_U`: index of the same expert's use before, -1 for its first."""

    position_U: IntArray
    tokens_U: IntArray
    previous_U: IntArray


class Rows:
    """Rows of a linear program under construction, appended in blocks."""

    def __init__(self) -> None:
        self.count = 0
        self._low: list[FloatArray] = []
        self._high: list[FloatArray] = []
        self._entries: list[tuple[IntArray, IntArray, FloatArray]] = []

    def block(self, low_s: FloatArray | float, high_s: FloatArray | float, size: int) -> IntArray:
        """Numbers of `size` new rows between the given bounds."""
        self._low.append(np.broadcast_to(np.asarray(low_s, np.float64), size))
        self._high.append(np.broadcast_to(np.asarray(high_s, np.float64), size))
        first, self.count = self.count, self.count + size
        return np.arange(first, self.count)

    def add(self, row_Z: IntArray, column_Z: IntArray, value: FloatArray | float) -> None:
        """Entries of the matrix."""
        self._entries.append((row_Z, column_Z, np.broadcast_to(np.asarray(value, np.float64), row_Z.shape)))

    def program(self, cost_C: FloatArray, upper_C: FloatArray) -> LinearProgram:
        """The finished program."""
        rows, columns, values = (np.concatenate(parts) for parts in zip(*self._entries, strict=True))
        return LinearProgram(
            cost_C, upper_C, np.concatenate(self._low), np.concatenate(self._high), rows, columns, values
        )


def uses_of(demand_WLE: IntArray) -> Uses:
    """The uses of a window from its demand, tokens per expert, int64 [W, L, E]."""
    _, layers, experts = demand_WLE.shape
    step_U, layer_U, expert_U = demand_WLE.nonzero()
    flat_U = layer_U * experts + expert_U
    order_U = np.argsort(flat_U, kind="stable")
    again_U = np.append(False, np.diff(flat_U[order_U]) == 0)
    previous_U = np.full(len(flat_U), -1)
    previous_U[order_U[1:][again_U[1:]]] = order_U[:-1][again_U[1:]]
    return Uses(step_U * layers + layer_U, demand_WLE[step_U, layer_U, expert_U], previous_U)


class Columns:
    """Numbers of the program's columns. `time_P` is the makespan above the envelope's least, in units of UNIT_S."""

    def __init__(self, count: int, places: int) -> None:
        self.places, self.total = places, 2 * count + 6 * places
        self.keep_U, self.fetch_U = np.arange(count), np.arange(count, 2 * count)
        parts = 2 * count + np.arange(6 * places).reshape(6, places)
        self.present_P, self.time_P, self.span_P, self.late_P, self.early_P, self.stock_P = parts


def window_program(
    uses: Uses, layers: list[Envelope], after_s_P: FloatArray, copy_s: float, num_slots: int
) -> LinearProgram:
    """How far the experts' makespans of a window must exceed their least, in UNIT_S: a bound for every policy.

    `layers` [P]: envelope of each position; `after_s_P`: time from its end to the decision of the next one, or for the
    last position to the end of the window.

    Take any run of the window under MODEL.md section 2 that decides in no time and takes no slot from an expert active
    in a layer before the next layer's decision. Copies ordered before the window's first decision count as arrived.
    Set, for its uses u of expert e at position i, all in {0, 1}:

    * keep_u: e holds one slot from the decision at its use before until after the decision at i, and was present at the
      use before; for its first use: it holds one slot since before the first decision.
    * fetch_u: not keep_u, and e runs on the GPU at i. Its copy is ordered in the window, and arrives before e runs.
    * present_u = keep_u + fetch_u.

    In shares of whole copies, at each position i:

    * late_i: progress from the decision at i to the end of i on copies that serve fetches at i.
    * early_i: progress from the decision at i to the next decision on copies that serve later positions.
    * stock_i: progress before the decision at i on copies that serve later positions.

    No copy serves two fetches, since after the first the expert is kept or has been gone. Then:

    1. present_u <= 1, keep_u <= present at the use before, and e runs on the GPU at i only if present_u. So makespan_i
       >= the envelope's rows at present_u, which none of them lets grow.
    2. stock_i = stock_(i-1) + early_(i-1) + late_i - sum of fetch_u at i, whose copies are complete by the end of i.
    3. copy_s * (late_i + early_i) <= makespan_i + after_i, the link being serial; and those of i's N experts that
       late_i serves run on the GPU after it: copy_s * late_i + (shortest gpu_s) * late_i / N <= makespan_i.
    4. span_i + sum of present_u at i + stock_i + early_i <= num_slots, where span_i is the sum of keep_u over uses
       after i whose use before is before i. Just before the next decision all of these hold different slots: active
       experts have kept theirs, and a copy that makes progress has one.

    All rows hold for the run, and the objective is its time; the program allows fractions besides. Capacity is counted
    at every layer, so a slot may serve layer 1 and then layer 20 of one step.
    """
    places, count = len(layers), len(uses.position_U)
    columns = Columns(count, places)
    rows = Rows()
    _residency_rows(rows, uses, columns)
    _makespan_rows(rows, uses, layers, columns)
    _slot_rows(rows, uses, columns, num_slots)
    _link_rows(rows, uses, layers, columns, after_s_P, copy_s)
    cost_C = np.zeros(columns.total)
    cost_C[columns.time_P] = 1.0
    return rows.program(cost_C, _upper(uses, layers, columns, copy_s, num_slots))


def _residency_rows(rows: Rows, uses: Uses, columns: Columns) -> None:
    """Point 1: presence is kept or fetched, and what is kept was present."""
    count = len(uses.position_U)
    once_U = rows.block(-np.inf, 1.0, count)
    rows.add(once_U, columns.keep_U, 1.0)
    rows.add(once_U, columns.fetch_U, 1.0)
    again = uses.previous_U >= 0
    before = uses.previous_U[again]
    kept = rows.block(-np.inf, 0.0, len(before))
    rows.add(kept, columns.keep_U[again], 1.0)
    rows.add(kept, columns.keep_U[before], -1.0)
    rows.add(kept, columns.fetch_U[before], -1.0)
    present_P = rows.block(0.0, 0.0, columns.places)
    rows.add(present_P, columns.present_P, 1.0)
    rows.add(present_P[uses.position_U], columns.keep_U, -1.0)
    rows.add(present_P[uses.position_U], columns.fetch_U, -1.0)


def _makespan_rows(rows: Rows, uses: Uses, layers: list[Envelope], columns: Columns) -> None:
    """The envelope's facets and blends at each position; the least makespan is the floor of `time_P` instead."""
    facets_P = np.array([len(layer.slope_s_H) for layer in layers])
    at_H = np.repeat(np.arange(columns.places), facets_P)
    slope_H = np.concatenate([layer.slope_s_H for layer in layers]) / UNIT_S
    floor_P = np.array([layer.least_s for layer in layers])
    intercept_H = np.concatenate([layer.intercept_s_H for layer in layers]) - floor_P[at_H]
    facet_H = rows.block(intercept_H / UNIT_S, np.inf, len(at_H))
    rows.add(facet_H, columns.time_P[at_H], 1.0)
    rows.add(facet_H, columns.present_P[at_H], slope_H)
    first_P = np.searchsorted(uses.position_U, np.arange(columns.places + 1))
    for position, layer in enumerate(layers):
        active = slice(first_P[position], first_P[position + 1])
        for blend_s, saving_s_N in zip(layer.blend_s, layer.saving_s, strict=True):
            row = rows.block((blend_s - layer.least_s) / UNIT_S, np.inf, 1)
            rows.add(row, columns.time_P[position : position + 1], 1.0)
            for kind in (columns.keep_U[active], columns.fetch_U[active]):
                rows.add(np.repeat(row, len(kind)), kind, saving_s_N / UNIT_S)


def _slot_rows(rows: Rows, uses: Uses, columns: Columns, num_slots: int) -> None:
    """Point 4: `span_P` by its changes, and the slots."""
    start_U = np.where(uses.previous_U >= 0, uses.position_U[uses.previous_U] + 1, 0)
    spans = start_U < uses.position_U
    change_P = rows.block(0.0, 0.0, columns.places)
    rows.add(change_P, columns.span_P, 1.0)
    rows.add(change_P[1:], columns.span_P[:-1], -1.0)
    rows.add(change_P[start_U[spans]], columns.keep_U[spans], -1.0)
    rows.add(change_P[uses.position_U[spans]], columns.keep_U[spans], 1.0)
    slots_P = rows.block(-np.inf, float(num_slots), columns.places)
    for part in (columns.span_P, columns.present_P, columns.stock_P, columns.early_P):
        rows.add(slots_P, part, 1.0)


def _link_rows(
    rows: Rows, uses: Uses, layers: list[Envelope], columns: Columns, after_s_P: FloatArray, copy_s: float
) -> None:
    """Points 2 and 3. Where copies take for ever, the bounds of the columns say so."""
    stock_P = rows.block(0.0, 0.0, columns.places)
    rows.add(stock_P, columns.stock_P, 1.0)
    rows.add(stock_P[1:], columns.stock_P[:-1], -1.0)
    rows.add(stock_P[1:], columns.early_P[:-1], -1.0)
    rows.add(stock_P, columns.late_P, -1.0)
    rows.add(stock_P[uses.position_U], columns.fetch_U, 1.0)
    if not np.isfinite(copy_s):
        return
    floor_s_P = np.array([layer.least_s for layer in layers])
    link_P = rows.block(-np.inf, (floor_s_P + after_s_P) / UNIT_S, columns.places)
    rows.add(link_P, columns.time_P, -1.0)
    rows.add(link_P, columns.late_P, copy_s / UNIT_S)
    rows.add(link_P, columns.early_P, copy_s / UNIT_S)
    run_s_P = np.array([layer.shortest_gpu_s for layer in layers]) / np.maximum(_active(uses, columns), 1)
    late_P = rows.block(-np.inf, floor_s_P / UNIT_S, columns.places)
    rows.add(late_P, columns.time_P, -1.0)
    rows.add(late_P, columns.late_P, (copy_s + run_s_P) / UNIT_S)


def _active(uses: Uses, columns: Columns) -> IntArray:
    return np.bincount(uses.position_U, minlength=columns.places)


def _upper(uses: Uses, layers: list[Envelope], columns: Columns, copy_s: float, num_slots: int) -> FloatArray:
    """Finite bounds that some optimum meets: all on the CPU is feasible, so no time exceeds that one's total."""
    active_P, possible = _active(uses, columns), float(np.isfinite(copy_s))
    upper_C = np.ones(columns.total)
    upper_C[columns.present_P] = np.minimum(active_P, num_slots)
    upper_C[columns.time_P] = sum(layer.all_cpu_s - layer.least_s for layer in layers) / UNIT_S
    upper_C[columns.span_P] = num_slots
    upper_C[columns.late_P] = active_P * possible
    upper_C[columns.early_P] = num_slots * possible
    upper_C[columns.stock_P] = num_slots
    return upper_C
