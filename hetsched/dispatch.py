"""From a demand and a residency to a DispatchProblem, and from its solution to ops.

Shapes: N active experts of the layer, V victims, L layers, E experts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .policy import Machine, View
from .problem import Device, DispatchProblem, johnson_order
from .residency import COPYING, RESIDENT
from .types import Demand, ExpertId, Fetch, FloatArray, Lane, Op, Run

FREE = -1  # a place that nobody has to leave
_CPU, _GPU, _FETCH = (int(device) for device in Device)


class Posed(NamedTuple):
    """A problem, and what its rows stand for: `victims` are flat indices (layer * E + expert), FREE for a free slot."""

    problem: DispatchProblem
    victims: npt.NDArray[np.int64]


def is_settled(
    demand: Demand, view: View, machine: Machine, utility_LE: FloatArray, lowest_price_s: float | None
) -> bool:
    """Whether residents on the GPU and misses on the CPU is provably optimal, so that no solver need be asked.

    True when no resident gains by leaving the GPU, and no number k of fetches pays: they end no earlier than
    link_free + k copies + one computation, and save at most k times (best utility - lowest price). That is linear in
    k, so k = 1 decides unless each further fetch pays for its own copy. `lowest_price_s` None: no place for a fetch.
    """
    cost, states = machine.cost, view.residency.states(demand.layer)
    resident_n, missing_n, missing = [], [], []
    for e, tokens in zip(demand.active, demand.tokens, strict=True):
        if states[e] == COPYING:
            return False
        if states[e] >= RESIDENT:
            resident_n.append(tokens)
        else:
            missing_n.append(tokens)
            missing.append(e)
    gpu_end_s = sum(cost.each_gpu_s(resident_n))
    roundtrip_s = cost.roundtrip_s(demand.num_tokens)
    if not missing:
        return roundtrip_s + min(cost.each_cpu_s(resident_n)) >= gpu_end_s
    makespan_s = roundtrip_s + sum(cost.each_cpu_s(missing_n))
    if gpu_end_s > makespan_s:
        return False
    if lowest_price_s is None:
        return True
    gain_s: float = max(utility_LE[demand.layer, missing].tolist()) - lowest_price_s
    copy_s = cost.copy_s()
    return copy_s >= gain_s and view.link.free_s + copy_s + min(cost.each_gpu_s(missing_n)) - gain_s >= makespan_s


def pose(demand: Demand, view: View, machine: Machine, utility_LE: FloatArray) -> Posed:
    """The dispatch problem of one layer; seconds from the cost model, prices from `utility_LE` (seconds saved)."""
    cost, layer, states = machine.cost, demand.layer, view.residency.states(demand.layer)
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
        roundtrip_s=cost.roundtrip_s(demand.num_tokens),
    )
    return Posed(problem, victims)


def _victims(
    demand: Demand, view: View, utility_LE: FloatArray, wanted: int
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """The cheapest `wanted` places for new experts, free slots first, and their prices, ascending."""
    free = min(view.residency.free_slots, wanted)
    if wanted == free:
        return np.full(free, FREE, np.int64), np.zeros(free)
    flat = view.residency.evictable(demand.layer, demand.active_N)
    utility = utility_LE.reshape(-1)[flat]
    if len(flat) > wanted - free:
        cheapest = utility.argpartition(wanted - free - 1)[: wanted - free]
        flat, utility = flat[cheapest], utility[cheapest]
    order = utility.argsort(kind="stable")
    places, prices = flat[order], utility[order]
    if free:
        return np.concatenate([np.full(free, FREE, np.int64), places]), np.concatenate([np.zeros(free), prices])
    return places, prices


def to_ops(demand: Demand, posed: Posed, choice_N: npt.NDArray[np.int8], num_experts: int) -> list[Op]:
    """Ops in the order in which the problem's makespan assumes them."""
    problem, choice = posed.problem, choice_N.tolist()
    ids = [ExpertId(demand.layer, e) for e in demand.active]
    tokens, ready_s = demand.tokens, problem.ready_s_N.tolist()
    here = sorted((i for i, device in enumerate(choice) if device == _GPU), key=ready_s.__getitem__)
    fetched = [i for i, device in enumerate(choice) if device == _FETCH]
    if len(fetched) > 1:
        fetched = johnson_order(problem, np.array(fetched)).tolist()
    ops: list[Op] = []
    for place, i in zip(posed.victims.tolist(), fetched, strict=False):
        victim = None if place == FREE else ExpertId(*divmod(place, num_experts))
        ops.append(Fetch(ids[i], victim, prefetch=False, cause="demanded: fetching beats the CPU"))
    ops.extend(Run(ids[i], tokens[i], Lane.GPU, "in flight" if ready_s[i] else "resident") for i in here)
    ops.extend(Run(ids[i], tokens[i], Lane.GPU, "fetched") for i in fetched)
    ops.extend(
        Run(ids[i], tokens[i], Lane.CPU, "the CPU ends sooner") for i, device in enumerate(choice) if device == _CPU
    )
    return ops
