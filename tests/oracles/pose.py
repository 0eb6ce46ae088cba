"""From a demand and a residency to a DispatchProblem, and from its solution to ops: what kernels do on a board.

Shapes: N active experts of the layer, V victims, L layers, E experts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hetsched.dispatch.problem import Device, DispatchProblem, johnson_order
from hetsched.policy import Setting, View
from hetsched.residency import RESIDENT
from hetsched.types import Demand, ExpertId, Fetch, FloatArray, Lane, Run

FREE = -1  # a place that nobody has to leave
_CPU, _GPU, _FETCH = (int(device) for device in Device)


class PosedProblem(NamedTuple):
    """A problem, and what its rows stand for: `victims` are flat indices (layer * E + expert), FREE for a free slot."""

    problem: DispatchProblem
    victims: npt.NDArray[np.int64]


def pose(demand: Demand, view: View, setting: Setting, utility_LE: FloatArray) -> PosedProblem:
    """The dispatch problem of one layer; seconds from the cost model, prices from `utility_LE` (seconds saved)."""
    cost, layer, states = setting.cost, demand.layer, view.residency.states(demand.layer)
    ready = {e: 0.0 if states[e] >= RESIDENT else np.inf for e in demand.active}
    link_free_s = view.link.free_s
    for expert, remaining_s in view.link.in_flight:
        if expert.layer == layer and expert.expert in ready:
            ready[expert.expert] = remaining_s
            link_free_s = max(link_free_s, remaining_s)
    num_missing = sum(ready_s == np.inf for ready_s in ready.values())
    victims, price_V = _victims(demand, view, utility_LE, num_missing)
    problem = DispatchProblem(
        gpu_s_N=np.array(cost.each_gpu_s(demand.tokens)),
        cpu_s_N=np.array(cost.each_cpu_s(demand.tokens)),
        copy_s_N=np.full(len(ready), cost.copy_s()),
        ready_s_N=np.array(list(ready.values())),
        utility_N=utility_LE[layer, demand.active_N],
        victim_price_V=price_V,
        link_free_s=link_free_s,
        roundtrip_s=cost.cpu_start_s(demand.num_tokens),
        gpu_call_s=cost.gpu_call_s(),
    )
    return PosedProblem(problem, victims)


def _victims(
    demand: Demand, view: View, utility_LE: FloatArray, wanted: int
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """The cheapest `wanted` places for new experts, free slots first, and their prices, ascending."""
    free = min(view.residency.free_slots, wanted)
    if wanted == free:
        return np.full(free, FREE, np.int64), np.zeros(free)
    flat = view.residency.evictable(demand.layer, demand.active_N)
    utility = utility_LE.reshape(-1)[flat]
    order = utility.argsort(kind="stable")[: wanted - free]
    places, prices = flat[order], utility[order]
    if free:
        return np.concatenate([np.full(free, FREE, np.int64), places]), np.concatenate([np.zeros(free), prices])
    return places, prices


def to_decision(
    demand: Demand, posed: PosedProblem, choice_N: npt.NDArray[np.int8], num_experts: int
) -> tuple[tuple[Run, ...], tuple[Fetch, ...]]:
    """Runs and demanded fetches in the order in which the problem's makespan assumes them."""
    problem, choice = posed.problem, choice_N.tolist()
    ids = [ExpertId(demand.layer, e) for e in demand.active]
    tokens, ready_s = demand.tokens, problem.ready_s_N.tolist()
    here = sorted((i for i, device in enumerate(choice) if device == _GPU), key=ready_s.__getitem__)
    fetched = [i for i, device in enumerate(choice) if device == _FETCH]
    if len(fetched) > 1:
        fetched = johnson_order(problem, np.array(fetched)).tolist()
    fetches = []
    for place, i in zip(posed.victims.tolist(), fetched, strict=False):
        victim = None if place == FREE else ExpertId(*divmod(place, num_experts))
        fetches.append(Fetch(ids[i], victim, prefetch=False, cause="demanded: fetching beats the CPU"))
    runs = [Run(ids[i], tokens[i], Lane.GPU, "in flight" if ready_s[i] else "resident") for i in here]
    runs += [Run(ids[i], tokens[i], Lane.GPU, "fetched") for i in fetched]
    runs += [
        Run(ids[i], tokens[i], Lane.CPU, "the CPU ends sooner") for i, device in enumerate(choice) if device == _CPU
    ]
    return tuple(runs), tuple(fetches)
