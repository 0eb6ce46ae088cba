"""The clairvoyant bound against policies: the best one by exhaustion on tiny cases, simple ones on larger."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import cache
from itertools import combinations, permutations, product

import numpy as np
import pytest

from hetsched.bound.clairvoyant import clairvoyant_bound
from tests.oracles.makespan import lanes
from tests.replay.flat_cost import FlatCost, random_trace, steps_of

Copies = tuple[tuple[int, float], ...]  # expert (flat) and seconds of its copy that are left, in order of the link


def move_link(resident: frozenset[int], copies: Copies, seconds: float) -> tuple[frozenset[int], Copies]:
    """Residents and copies left after the link worked for some time."""
    while copies and copies[0][1] <= seconds + 1e-12:
        seconds -= copies[0][1]
        resident, copies = resident | {copies[0][0]}, copies[1:]
    if copies and seconds > 0:
        copies = ((copies[0][0], copies[0][1] - seconds), *copies[1:])
    return resident, copies


def orders(resident, copies, active, slots, universe, most):
    """Every list of at most `most` copies to add, with every choice of victims: (residents left, copies)."""
    absent = [e for e in universe if e not in resident and all(e != copied for copied, _ in copies)]
    victims = [e for e in resident if e not in active]
    for count in range(min(most, len(absent)) + 1):
        evictions = max(count - (slots - len(resident) - len(copies)), 0)
        for chosen in permutations(absent, count):
            for lost in combinations(victims, evictions):
                yield resident - set(lost), chosen


def best_s(uses: list[frozenset[int]], cost: FlatCost, slots: int, universe: int, most: int = 2) -> float:
    """Least time of all policies under MODEL.md section 2, from the best residency, by exhaustion.

    Policies order up to `most` copies at a decision, ahead of those waiting or behind them.
    """

    @cache
    def rest_s(place: int, resident: frozenset[int], copies: Copies) -> float:
        if place == len(uses):
            return 0.0
        resident, copies = move_link(resident, copies, cost.dense)
        least = np.inf
        for left, added in orders(resident, copies, uses[place], slots, range(universe), most):
            new = tuple((e, cost.copy) for e in added)
            under_way = 1 if copies and copies[0][1] < cost.copy else 0
            for queue in {copies + new, copies[:under_way] + new + copies[under_way:]}:
                for makespan_s in layer_times(uses[place], left, queue, cost):
                    after = rest_s(place + 1, *move_link(left, queue, makespan_s))
                    least = min(least, cost.dense + makespan_s + after)
        return least

    starts = combinations(range(universe), min(slots, universe))
    return min(rest_s(0, frozenset(start), ()) for start in starts)


def layer_times(active, resident, queue, cost) -> set[float]:
    """Makespans of every dispatch of a layer."""
    arrival, ends = dict.fromkeys(resident, 0.0), 0.0
    for expert, seconds in queue:
        ends += seconds
        arrival[expert] = ends
    times = set()
    for on_gpu in product([False, True], repeat=len(active)):
        chosen = [e for e, gpu in zip(sorted(active), on_gpu, strict=True) if gpu]
        if any(e not in arrival for e in chosen):
            continue
        gpu_end = cost.gpu_call if chosen else 0.0
        for start in sorted(arrival[e] for e in chosen):
            gpu_end = max(gpu_end, start) + cost.gpu
        on_cpu = len(active) - len(chosen)
        times.add(round(max(gpu_end, on_cpu and cost.roundtrip + on_cpu * cost.cpu), 9))
    return times


@pytest.mark.parametrize("seed", range(30))
def test_no_policy_beats_it(seed):
    """On tiny cases the best policy, found by exhaustion, takes at least the bound, and not much more."""
    rng = np.random.default_rng(seed)
    layers, experts = ((1, 4), (2, 2), (2, 3))[seed % 3]
    trace = random_trace(rng, 4 if layers == 1 else 3, layers, experts, 1 + seed % 2)
    cost = FlatCost(1.0, 1.0, float(rng.integers(2, 6)), float(rng.integers(1, 4)), 0.5 * (seed % 4 == 0))
    cost = replace(cost, gpu_call=float(rng.choice([0.0, 0.5, 1.5])))
    slots = int(rng.integers(1, 4))
    uses = [frozenset(int(l * experts + e) for e in token[l]) for token in trace.experts_TLK for l in range(layers)]
    best = best_s(uses, cost, slots, layers * experts)
    bound = clairvoyant_bound(trace, steps_of(trace), cost, slots).window_s.sum()
    assert 0.75 * best <= bound <= best + 1e-6


def static_s(trace, steps, cost, slots) -> list[float]:
    """Seconds of each step with the most frequent experts resident and all else on the CPU."""
    total_LE = trace.demand_LE(slice(None))
    kept = set(np.argsort(-total_LE.ravel(), kind="stable")[:slots].tolist())
    times = []
    for begin, end in zip(*steps, strict=True):
        step_s = 0.0
        for layer, tokens_E in enumerate(trace.demand_LE(slice(begin, end))):
            active = tokens_E.nonzero()[0]
            here = [layer * trace.num_experts + e in kept for e in active]
            cpu_s = sum(s for s, gpu in zip(cost.each_cpu_s(tokens_E[active]), here, strict=True) if not gpu)
            gpu_s = sum(here) and cost.gpu_call + sum(here) * cost.gpu
            step_s += cost.dense + max(gpu_s, cpu_s and cost.roundtrip + cpu_s)
        times.append(step_s)
    return times


def lru_s(trace, steps, cost, slots) -> list[float]:
    """Seconds of each step where every miss is fetched into the slot used longest ago; on the CPU if there is none."""
    cached: OrderedDict[int, None] = OrderedDict()
    times = []
    for begin, end in zip(*steps, strict=True):
        step_s = 0.0
        for layer, tokens_E in enumerate(trace.demand_LE(slice(begin, end))):
            active = [layer * trace.num_experts + int(e) for e in tokens_E.nonzero()[0]]
            hits = [e for e in active if e in cached]
            for e in hits:
                cached.move_to_end(e)
            fetched = [e for e in active if e not in cached][: slots - len(hits)]
            for e in fetched:
                if len(cached) == slots:
                    cached.popitem(last=False)
                cached[e] = None
            away = [int(tokens_E[e % trace.num_experts]) for e in active if e not in cached]
            copies = np.full(len(fetched), cost.copy)
            runs = np.full(len(fetched), cost.gpu)
            works = len(hits) * cost.gpu, runs, copies, sum(cost.each_cpu_s(away))
            ends = lanes(*works, cost.roundtrip, gpu_call_s=cost.gpu_call)
            step_s += cost.dense + ends.makespan_s
        times.append(step_s)
    return times


@pytest.mark.parametrize("tokens_per_step", [1, 5])
@pytest.mark.parametrize("slots", [3, 12, 30])
@pytest.mark.parametrize(("copy", "call"), [(0.7, 0.0), (5.0, 0.0), (0.7, 0.8)])
def test_simple_policies_are_above_it_in_every_window(tokens_per_step, slots, copy, call):
    """Static and least-recently-used caches, in each window, also with several and unequal tokens, and calls."""
    trace = random_trace(np.random.default_rng(slots), 48 * tokens_per_step, 4, 10, 3)
    steps, cost = steps_of(trace, tokens_per_step), FlatCost(1.0, 0.5, 2.0, copy, 0.25, cpu_grows=True, gpu_call=call)
    bound = clairvoyant_bound(trace, steps, cost, slots)
    for policy in (static_s, lru_s):
        achieved = np.add.reduceat(policy(trace, steps, cost, slots), bound.begin_S)
        assert (bound.window_s <= achieved + 1e-9).all()
