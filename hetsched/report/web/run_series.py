"""A run log as arrays over its steps, and steps gathered into bins, so that a page stays small however long the run.

Shapes: S steps, B bins, N logged layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError
from ...types import BoolArray, FloatArray

if TYPE_CHECKING:
    from ...runlog import RunLog

MOST_BINS = 80
SUMS = (
    "tokens", "active", "hits", "resident", "here", "under_way", "fetched", "cpu", "demand_copies", "ahead_copies",
    "dense_s", "host_s", "decide_s", "experts_s", "predicted_s", "gpu_busy_s", "cpu_busy_s", "link_busy_s",
)  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """Each step of a log. `sums`: what its layers add up to, by name (see SUMS), shape (S,) each.

    A step takes from its beginning to the next one's; the last, to its last layer's end.
    """

    prefill_S: BoolArray
    begin_s_S: FloatArray
    end_s_S: FloatArray
    sums: dict[str, FloatArray]

    @property
    def count(self) -> int:
        """Steps in the log."""
        return len(self.begin_s_S)

    @cached_property
    def has_decode(self) -> bool:
        """Whether any step is more than prefill."""
        return bool((~self.prefill_S).any())

    def bins(self, prefill: bool) -> Bins:
        """Steps of one phase in at most MOST_BINS bins of as many consecutive steps each, the last perhaps fewer."""
        chosen = np.flatnonzero(self.prefill_S == prefill)
        size = max(-(-len(chosen) // MOST_BINS), 1)
        starts = np.arange(0, len(chosen), size)
        ends = np.minimum(starts + size, len(chosen)) - 1
        took_s = np.add.reduceat((self.end_s_S - self.begin_s_S)[chosen], starts) if len(chosen) else np.zeros(0)
        edges_s = np.stack([self.begin_s_S[chosen[starts]], self.end_s_S[chosen[ends]]], axis=1)
        sums = {k: np.add.reduceat(v[chosen], starts) if len(chosen) else np.zeros(0) for k, v in self.sums.items()}
        return Bins(len(chosen), size, edges_s, took_s, sums)


@dataclass(frozen=True)
class Bins:
    """Consecutive steps, `size` a bin. `edges_s`: (B, 2), begin and end; `took_s`: (B,), of these steps alone."""

    steps: int
    size: int
    edges_s: FloatArray
    took_s: FloatArray
    sums: dict[str, FloatArray]

    def per_token(self, name: str) -> FloatArray:
        """A sum for one token."""
        return self.over(name, self.sums["tokens"])

    def over(self, name: str, whole_B: FloatArray) -> FloatArray:
        """A sum over another; 0 where that is 0."""
        return np.divide(self.sums[name], whole_B, out=np.zeros(len(whole_B)), where=whole_B > 0)

    @property
    def tokens_per_s(self) -> FloatArray:
        """Tokens of each bin's steps over their seconds."""
        return self.over("tokens", self.took_s)

    @property
    def steps_text(self) -> str:
        """What a bin is, for captions."""
        return "each step is drawn" if self.size == 1 else f"a point gathers {self.size:,} consecutive steps"


def steps_of(log: RunLog) -> Steps:
    """The steps of a log, which holds at least one layer. Raises InputError for seconds that are no numbers."""
    layers = log.layers
    step_N = np.array([row.step for row in layers])
    starts = np.flatnonzero(np.diff(step_N, prepend=step_N[0] - 1))
    columns = _columns(log)
    sums = {name: np.add.reduceat(columns[name], starts) for name in SUMS if name != "tokens"}
    sums["tokens"] = np.maximum.reduceat(columns["tokens"], starts)
    begin_s_S = columns["begin_s"][starts]
    last_s = float(columns["end_s"].max())
    end_s_S = np.append(begin_s_S[1:], max(last_s, begin_s_S[-1]))
    prefill_S = np.array([layers[i].phase == "prefill" for i in starts])
    return Steps(prefill_S, begin_s_S, end_s_S, sums)


def predicted_and_measured(log: RunLog) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Predicted and measured seconds of layers that have both, and whether each was prefill."""
    predicted = np.array([row.predicted_s for row in log.layers], float)
    measured = np.array([row.measured_s for row in log.layers], float)
    prefill = np.array([row.phase == "prefill" for row in log.layers], bool)
    known = (predicted > 0) & (measured > 0)
    return predicted[known], measured[known], prefill[known]


def _columns(log: RunLog) -> dict[str, FloatArray]:
    rows = log.layers
    demand = [sum(move.kind == "fetch" for move in row.moves) for row in rows]
    columns = {
        "tokens": [row.tokens for row in rows],
        "active": [len(row.experts) for row in rows],
        "hits": [row.hits for row in rows],
        "resident": [row.lane.count("r") for row in rows],
        "here": [row.lane.count("h") for row in rows],
        "under_way": [row.lane.count("i") for row in rows],
        "fetched": [row.lane.count("f") for row in rows],
        "cpu": [row.lane.count("c") + row.lane.count("x") for row in rows],
        "demand_copies": demand,
        "ahead_copies": [len(row.moves) - fetched for row, fetched in zip(rows, demand, strict=True)],
        "experts_s": [row.measured_s for row in rows],
        "gpu_busy_s": [row.gpu_s for row in rows],
        "cpu_busy_s": [row.cpu_s for row in rows],
        "link_busy_s": [row.link_s for row in rows],
    }
    for name in ("dense_s", "host_s", "decide_s", "predicted_s", "begin_s", "end_s"):
        columns[name] = [getattr(row, name) for row in rows]
    arrays = {name: np.array(values, float) for name, values in columns.items()}
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise InputError(f"{log.path}: {name} of layers is not finite everywhere; give a log as it was written")
    return arrays
