"""A bench on small made-up traces, and forecasters whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hetsched.evaluate.evaluation import in_two
from hetsched.geometry import MoEGeometry
from hetsched.replay.opened import Bench
from hetsched.replay.study import Study
from hetsched.traces.trace import RoutingTrace
from hetsched.types import Demand, FloatArray


def bench(trace: RoutingTrace, fit_sequences: float = 0.5, replay: str = "decode", **more: Any) -> Bench:
    """A trace opened: the first share fitted on, the rest scored token by token."""
    shape = MoEGeometry("made", trace.num_layers, trace.num_experts, trace.top_k, hidden=8, ffn=8)
    study = Study(in_two(trace, fit_sequences), shape, (), fit_sequences, replay=replay, **more)
    return Bench(study)


class Scripted:
    """Says the same of every layer, and writes down what it is asked and told."""

    name = "scripted"
    reach = None

    def __init__(self, says_E: Sequence[float] = (0.0,)) -> None:
        self.says_E = np.array(says_E, float)
        self.told: list[tuple[int, int, int]] = []  # step, layer, tokens
        self.asked_after: list[int] = []  # how many layers it had been told of

    def start(self, geometry: MoEGeometry, frequency_LE: Any = None, history: Any = None) -> None:
        self.history = history
        self.said_LE = np.tile(self.says_E, (geometry.num_layers, 1))

    def observe(self, demand: Demand) -> None:
        self.told.append((demand.step, demand.layer, demand.num_tokens))

    def demand_LE(self) -> FloatArray:
        return self.said_LE

    def next_LE(self) -> FloatArray:
        self.asked_after.append(len(self.told))
        return self.said_LE
