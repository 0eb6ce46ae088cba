"""Which experts lay on the GPU when, and which were asked for: maps of layers by experts.

Shapes: L layers, E experts, P spans of time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...types import FloatArray

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...runlog import RunLog

MOST_SPANS = 6


def asked(log: RunLog) -> FloatArray:
    """Share of each layer's tokens that chose each expert, shape (L, E)."""
    counts_LE = np.zeros((log.header.num_layers, log.header.num_experts))
    tokens_L = np.zeros(log.header.num_layers)
    for row in log.layers:
        counts_LE[row.layer, list(row.experts)] += row.counts
        tokens_L[row.layer] += row.tokens
    return counts_LE / np.maximum(tokens_L, 1.0)[:, None]


def hits_by_layer(log: RunLog) -> tuple[FloatArray, FloatArray]:
    """Shares of each layer's active experts: those there when asked for, and with those waited for, (L,) each."""
    there_L, ran_L, active_L = np.zeros((3, log.header.num_layers))
    for row in log.layers:
        there_L[row.layer] += row.hits
        ran_L[row.layer] += row.hits + row.lane.count("i") + row.lane.count("f")
        active_L[row.layer] += len(row.experts)
    return there_L / np.maximum(active_L, 1.0), ran_L / np.maximum(active_L, 1.0)


def residency(log: RunLog) -> tuple[FloatArray, list[tuple[int, int]]]:
    """Share of each span's steps in which an expert had a place on the GPU, (P, L, E); first and last step of each.

    A place is had from the step in which a copy into it is begun to the one in which another takes it. Key frames are
    right where they differ from what moves add up to.
    """
    shape = (log.header.num_layers, log.header.num_experts)
    steps = list(log.index)
    spans = [(int(part[0]), int(part[-1])) for part in np.array_split(np.array(steps), min(MOST_SPANS, len(steps)))]
    frames = {frame.step: frame.experts for frame in log.frames}
    here_LE = _held(log.header.resident, shape)
    share_PLE = np.zeros((len(spans), *shape))
    span = 0
    for step, places in log.index.items():
        span += step > spans[span][1]
        if step in frames:
            here_LE = _held(frames[step], shape)
        for place in places:
            row = log.layers[place]
            _take(here_LE, row.evicts, 0.0)
            for move in row.moves:
                _take(here_LE, [move.out] if move.out else [], 0.0)
                _take(here_LE, [(move.layer, move.expert)], 1.0)
        share_PLE[span] += here_LE
    counts_P = [sum(first <= step <= last for step in steps) for first, last in spans]
    return share_PLE / np.array(counts_P, float)[:, None, None], spans


def _held(experts_by_layer: Iterable[Iterable[int]], shape: tuple[int, int]) -> FloatArray:
    here_LE = np.zeros(shape)
    for layer, experts in enumerate(experts_by_layer):
        _take(here_LE, ((layer, expert) for expert in experts), 1.0)
    return here_LE


def _take(here_LE: FloatArray, pairs: Iterable[tuple[int, int]], value: float) -> None:
    """Set places of a map; what the model has not is passed over."""
    layers, experts = here_LE.shape
    for layer, expert in pairs:
        if 0 <= layer < layers and 0 <= expert < experts:
            here_LE[layer, expert] = value
