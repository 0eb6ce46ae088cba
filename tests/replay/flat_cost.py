"""Costs in round numbers, and traces to go with them, for tests whose answers are worked out by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hetsched.traces.trace import RoutingTrace
from hetsched.types import IntArray


@dataclass(frozen=True)
class FlatCost:
    """A CostModel whose times do not depend on the number of tokens, but for `cpu` where `cpu_grows`."""

    dense: float = 1.0
    gpu: float = 1.0
    cpu: float = 4.0
    copy: float = 2.0
    roundtrip: float = 0.0
    cpu_grows: bool = False
    gpu_call: float = 0.0

    def dense_s(self, num_tokens: int) -> float:
        return self.dense

    def copy_s(self) -> float:
        return self.copy

    def cpu_start_s(self, num_tokens: int) -> float:
        return self.roundtrip

    def gpu_call_s(self) -> float:
        return self.gpu_call

    def cpu_call_s(self) -> float:
        return 0.0

    def each_gpu_s(self, tokens: Iterable[int]) -> list[float]:
        return [self.gpu for _ in tokens]

    def each_cpu_s(self, tokens: Iterable[int]) -> list[float]:
        return [self.cpu * (n if self.cpu_grows else 1) for n in tokens]


class Steps(NamedTuple):
    begin_S: IntArray
    end_S: IntArray


def trace_of(experts: list[list[list[int]]], num_experts: int) -> RoutingTrace:
    """A trace of one sequence from nested lists [T][L][K]."""
    experts_TLK = np.array(experts, np.int16)
    tokens = len(experts_TLK)
    return RoutingTrace(experts_TLK, np.zeros(tokens, np.int32), np.ones(tokens, np.uint8), num_experts)


def random_trace(rng: np.random.Generator, tokens: int, layers: int, experts: int, top_k: int) -> RoutingTrace:
    """Skewed routing that repeats some of the token before."""
    popularity_LE = rng.random((layers, experts)) ** 3 + 0.01
    chosen: list[list[list[int]]] = []
    for token in range(tokens):
        rows = []
        for layer in range(layers):
            likely_E = popularity_LE[layer].copy()
            if token:
                likely_E[chosen[-1][layer]] *= 4
            picked = rng.choice(experts, top_k, replace=False, p=likely_E / likely_E.sum())
            rows.append(sorted(int(e) for e in picked))
        chosen.append(rows)
    return trace_of(chosen, experts)


def steps_of(trace: RoutingTrace, tokens_per_step: int = 1) -> Steps:
    begin_S = np.arange(0, trace.num_tokens, tokens_per_step)
    return Steps(begin_S, np.minimum(begin_S + tokens_per_step, trace.num_tokens))
