"""A layer's dispatch problem from its log and what the scheduler knew: the one that was decided, posed once more.

Shapes: N active experts of the layer, V victims, L layers, E experts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..board import COPY_S, CPU_S, CPU_SLOWDOWN, CPU_START_S, GPU_CALL_S, GPU_S, RESIDENT
from ..dispatch.problem import Device, DispatchProblem
from ..runlog import Layer
from ..types import FloatArray
from .again import Before

CHOSEN = {"r": Device.GPU, "i": Device.GPU, "f": Device.FETCH, "c": Device.CPU, "h": Device.CPU, "x": Device.CPU}


class Posed(NamedTuple):
    """A problem, the choice that was made, and whom its places belong to: (layer, expert), None for a free slot."""

    problem: DispatchProblem
    chosen_N: npt.NDArray[np.int8]
    victims: list[tuple[int, int] | None]


def posed(row: Layer, known: Before) -> Posed:
    """The program of one layer. What no policy prices costs nothing."""
    scheduler, size = known.scheduler, len(row.experts)
    seconds_4T, machine = scheduler.seconds.table(row.tokens), scheduler.board.machine
    state_E, counts = known.state_LE[row.layer], list(row.counts)
    ready_N = np.where(state_E[list(row.experts)] == RESIDENT, 0.0, math.inf)
    link_s = row.link.free_s if row.link else 0.0
    for layer, expert, left_s in row.link.flying if row.link else ():
        if layer == row.layer and expert in row.experts:
            ready_N[row.experts.index(expert)] = left_s
            link_s = max(link_s, left_s)
    for place, lane in enumerate(row.lane):  # what the log says has been there, whatever was reported of it
        if lane in "rh":
            ready_N[place] = 0.0
    utility_N, prices_V, victims = _prices(row, known, int(np.isinf(ready_N).sum()))
    copy_s = float(machine[COPY_S]) if scheduler.cost.has_gpu and row.slots else math.inf
    problem = DispatchProblem(
        seconds_4T[GPU_S, counts],
        seconds_4T[CPU_S, counts],
        np.full(size, copy_s),
        ready_N,
        utility_N,
        prices_V,
        link_s,
        float(seconds_4T[CPU_START_S, row.tokens]),
        float(machine[GPU_CALL_S]),
    )
    return Posed(problem, np.array([CHOSEN[lane] for lane in row.lane], np.int8), victims)


def _prices(row: Layer, known: Before, wanted: int) -> tuple[FloatArray, FloatArray, list[tuple[int, int] | None]]:
    """Utilities of the active, and the cheapest places: free ones, then idle residents by (utility, number)."""
    scheduler, foreseen = known.scheduler, known.foreseen
    held = int((known.state_LE == RESIDENT).sum() + (known.state_LE == 1).sum())
    free = min(max(0, row.slots - held), wanted)
    utility_LE = np.zeros(known.state_LE.shape) if foreseen is None else foreseen.utility_LE
    idle_LE = known.state_LE == RESIDENT
    idle_LE[row.layer, list(row.experts)] = False
    layers_I, experts_I = np.nonzero(idle_LE)
    order_I = np.argsort(utility_LE[layers_I, experts_I], kind="stable")[: wanted - free]
    taken = list(zip(layers_I[order_I].tolist(), experts_I[order_I].tolist(), strict=True))
    link_price_s = 0.0
    if foreseen is not None:
        slowdown = float(scheduler.board.machine[CPU_SLOWDOWN])
        contention_s = float(scheduler.board.machine[COPY_S]) * foreseen.cpu_share * (1.0 - 1.0 / slowdown)
        link_price_s = foreseen.link_price_s + contention_s
    prices_V = np.array([0.0] * free + [float(utility_LE[pair]) for pair in taken]) + link_price_s
    return utility_LE[row.layer, list(row.experts)].copy(), prices_V, [None] * free + taken
