"""Oracle: what a choice of a dispatch problem comes to, in plain Python, addition by addition as judge.py adds.

Written apart from it and from all solvers, straight from the words of DispatchProblem.
"""

from __future__ import annotations

from functools import reduce
from math import inf
from operator import add
from typing import Any

from hetsched.dispatch.problem import DispatchProblem, Verdict


def verdict(problem: DispatchProblem, choice_N: Any) -> Verdict:
    """All that is to know of a choice, whatever it is."""
    incumbent_s = objective_s(problem, problem.incumbent())
    if not is_feasible(problem, choice_N):
        return Verdict(False, inf, inf, incumbent_s)
    return Verdict(True, makespan_s(problem, choice_N), prices_s(problem, choice_N), incumbent_s)


def is_feasible(problem: DispatchProblem, choice_N: Any) -> bool:
    """Whether `choice_N` obeys arrival, copying and slots."""
    if getattr(choice_N, "shape", None) != (problem.size,):
        return False
    fetches = 0
    copy_s, ready_s = problem.copy_s_N.tolist(), problem.ready_s_N.tolist()
    for device, copy, ready in zip(choice_N.tolist(), copy_s, ready_s, strict=True):
        if device == 1:
            if ready == inf:
                return False
        elif device == 2:
            if ready < inf or copy == inf:
                return False
            fetches += 1
        elif device != 0:
            return False
    return fetches <= len(problem.victim_price_V)


def makespan_s(problem: DispatchProblem, choice_N: Any) -> float:
    """Seconds until the last lane ends: residents and arrivals, then fetches in Johnson's order, beside the CPU."""
    gpu_s, cpu_s, choice = problem.gpu_s_N.tolist(), problem.cpu_s_N.tolist(), choice_N.tolist()
    copy_s, ready_s = problem.copy_s_N.tolist(), problem.ready_s_N.tolist()
    gpu_end_s = float(problem.gpu_call_s) if any(choice) else 0.0
    here = [i for i, device in enumerate(choice) if device == 1]
    for i in sorted(here, key=ready_s.__getitem__):
        gpu_end_s = max(gpu_end_s, ready_s[i]) + gpu_s[i]

    def johnson(i: int) -> tuple[bool, float]:
        return (False, copy_s[i]) if copy_s[i] < gpu_s[i] else (True, -gpu_s[i])

    arrival_s = float(problem.link_free_s)
    for i in sorted((i for i, device in enumerate(choice) if device == 2), key=johnson):
        arrival_s += copy_s[i]
        gpu_end_s = max(gpu_end_s, arrival_s) + gpu_s[i]
    on_cpu_s = [cpu for cpu, device in zip(cpu_s, choice, strict=True) if device == 0]
    return max(gpu_end_s, problem.roundtrip_s + total(on_cpu_s)) if on_cpu_s else gpu_end_s


def prices_s(problem: DispatchProblem, choice_N: Any) -> float:
    """Prices of the cheapest victims less the utilities of the fetched."""
    pairs = zip(problem.utility_N.tolist(), choice_N.tolist(), strict=True)
    fetched_s = [utility_s for utility_s, device in pairs if device == 2]
    return total(problem.victim_price_V.tolist()[: len(fetched_s)]) - total(fetched_s)


def objective_s(problem: DispatchProblem, choice_N: Any) -> float:
    """Makespan plus prices."""
    return makespan_s(problem, choice_N) + prices_s(problem, choice_N)


def well_formed(problem: DispatchProblem) -> bool:
    """Whether every number is in its range, which NaN is not."""
    finite = (problem.gpu_s_N, problem.cpu_s_N, problem.utility_N)
    maybe_infinite = (problem.copy_s_N, problem.ready_s_N)
    price_s = problem.victim_price_V.tolist()
    return (
        all(0 <= seconds < inf for column in finite for seconds in column.tolist())
        and all(seconds >= 0 for column in maybe_infinite for seconds in column.tolist())
        and all(0 <= seconds < inf for seconds in price_s)
        and price_s == sorted(price_s)
        and 0 <= problem.link_free_s < inf
        and 0 <= problem.roundtrip_s < inf
        and 0 <= problem.gpu_call_s < inf
    )


def total(values: list[float]) -> float:
    """One addition after another; sum() adds in another way from Python 3.12 on."""
    return reduce(add, values, 0.0)
