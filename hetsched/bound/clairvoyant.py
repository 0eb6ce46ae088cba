"""Bounds: how fast any policy could be on a trace, knowing the whole future (MODEL.md section 7).

Shapes: W windows, S steps, L layers, E experts, U uses of a window, P = steps * layers positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..cost.model import CostModel
from ..errors import InputError
from ..traces.trace import RoutingTrace
from ..types import FloatArray, IntArray
from .envelope import Envelope, envelope
from .lp import SOLVERS, lower_bound
from .program import UNIT_S, Uses, uses_of, window_program

__all__ = ["SOLVERS", "Bound", "all_resident_bound", "clairvoyant_bound"]


class StepRanges(Protocol):
    """Tokens of each step: step s is tokens begin_S[s] to end_S[s] - 1 of a trace."""

    @property
    def begin_S(self) -> IntArray: ...
    @property
    def end_S(self) -> IntArray: ...


@dataclass(frozen=True)
class Bound:
    """A lower bound on time. `kind`: "clairvoyant" or "all-resident".

    `windows` [W, 2]: ranges of steps that are covered, first and past the last; `window_s` [W]: least seconds of each.
    A strategy is compared with it by its time on the same steps; it may carry its cache over between them.
    """

    kind: str
    windows: IntArray
    window_s: FloatArray
    note: str = ""

    @property
    def step_s(self) -> float:
        """Mean seconds per step covered."""
        return float(self.window_s.sum() / max(int((self.windows[:, 1] - self.windows[:, 0]).sum()), 1))

    @property
    def begin_S(self) -> IntArray:
        """First step of each window."""
        return self.windows[:, 0]

    @property
    def end_S(self) -> IntArray:
        """Step past the last of each window."""
        return self.windows[:, 1]

    @property
    def steps(self) -> IntArray:
        """Every step covered, ascending."""
        return np.concatenate([np.arange(begin, end) for begin, end in self.windows.tolist()] or [np.zeros(0, int)])


def spread_windows(num_steps: int, window_steps: int, max_windows: int | None = None) -> IntArray:
    """Ranges of steps [W, 2] at multiples of `window_steps`: all of them, or `max_windows` whole ones evenly spread."""
    if window_steps < 1 or (max_windows is not None and max_windows < 1):
        raise InputError(f"window_steps is {window_steps} and max_windows {max_windows}; both must be at least 1")
    begin_W = np.arange(0, num_steps, window_steps)
    if max_windows is not None:
        whole_W = begin_W[begin_W + window_steps <= num_steps]
        begin_W = whole_W if len(whole_W) else begin_W
        if len(begin_W) > max_windows:
            begin_W = begin_W[np.linspace(0, len(begin_W) - 1, max_windows).round().astype(int)]
    return np.stack([begin_W, np.minimum(begin_W + window_steps, num_steps)], axis=1)


def clairvoyant_bound(
    trace: RoutingTrace,
    steps: StepRanges,
    cost: CostModel,
    num_slots: int,
    *,
    window_steps: int = 16,
    max_windows: int | None = None,
    solver: str = "highs",
    tail_s: float = 0.0,
) -> Bound:
    """Least time of any policy that knows the future, by windows, each with residency of its own choice to begin with.

    Without contention and with decisions that take no time; both only add. `tail_s`: seconds at the end of each step in
    which only the link works. Longer windows give a tighter bound and take longer. Raises InputError for bad arguments.
    """
    if num_slots < 0:
        raise InputError(f"num_slots is {num_slots}; it must be at least 0")
    windows = spread_windows(len(steps.begin_S), window_steps, max_windows)
    read = _Reader(trace, steps, cost, tail_s)
    window_s = [_window_s(read.window(begin, end), cost.copy_s(), num_slots, solver) for begin, end in windows.tolist()]
    return Bound("clairvoyant", windows, np.array(window_s), f"windows of {window_steps} steps, {solver}")


def all_resident_bound(
    trace: RoutingTrace,
    steps: StepRanges,
    cost: CostModel,
    *,
    window_steps: int = 16,
    max_windows: int | None = None,
    tail_s: float = 0.0,
) -> Bound:
    """Least time with every expert on the GPU for free: the roof. Arguments as for `clairvoyant_bound`.

    Some experts still run on the CPU where the GPU lane would otherwise be the longer one.
    """
    windows = spread_windows(len(steps.begin_S), window_steps, max_windows)
    read = _Reader(trace, steps, cost, tail_s)
    window_s = [read.window(begin, end).floor_s for begin, end in windows.tolist()]
    return Bound("all-resident", windows, np.array(window_s), "unlimited GPU memory")


@dataclass(frozen=True)
class _Window:
    """Uses of a window; envelope and other time of each position [P]; `tail_s` after the last."""

    uses: Uses
    layers: list[Envelope]
    free_s_P: FloatArray
    tail_s: float

    @property
    def floor_s(self) -> float:
        """Time of the window if every expert were wherever it is best."""
        return float(self.free_s_P.sum()) + self.tail_s + sum(layer.least_s for layer in self.layers)


class _Reader:
    """Windows of a trace with their costs; layers with the same token counts share one envelope."""

    def __init__(self, trace: RoutingTrace, steps: StepRanges, cost: CostModel, tail_s: float) -> None:
        self._trace, self._steps, self._cost, self._tail_s = trace, steps, cost, tail_s
        self._envelopes: dict[bytes, Envelope] = {}

    def window(self, begin: int, end: int) -> _Window:
        """Steps begin to end - 1."""
        ranges = list(zip(self._steps.begin_S[begin:end].tolist(), self._steps.end_S[begin:end].tolist(), strict=True))
        uses = uses_of(np.stack([self._trace.demand_LE(slice(first, last)) for first, last in ranges]))
        places = len(ranges) * self._trace.num_layers
        first_P = np.searchsorted(uses.position_U, np.arange(1, places))
        layers = [self._envelope(tokens_N) for tokens_N in np.split(uses.tokens_U, first_P)]
        dense_s = [self._cost.dense_s(last - first) for first, last in ranges]
        free_s_P = np.repeat(dense_s, self._trace.num_layers)
        free_s_P[self._trace.num_layers :: self._trace.num_layers] += self._tail_s
        return _Window(uses, layers, free_s_P, self._tail_s)

    def _envelope(self, tokens_N: IntArray) -> Envelope:
        key = tokens_N.tobytes()
        if key not in self._envelopes:
            self._envelopes[key] = envelope(self._cost, tokens_N.tolist())
        return self._envelopes[key]


def _window_s(window: _Window, copy_s: float, num_slots: int, solver: str) -> float:
    after_s_P = np.append(window.free_s_P[1:], window.tail_s)
    program = window_program(window.uses, window.layers, after_s_P, copy_s, num_slots)
    return window.floor_s + UNIT_S * max(lower_bound(program, solver), 0.0)
