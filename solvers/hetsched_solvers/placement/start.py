"""Where the programs for placement start: the fast path's placement, or what is resident now where that is better."""

from __future__ import annotations

from hetsched.dispatch.placement import PlacementSolution, staying
from hetsched.dispatch.problem import PlacementProblem
from hetsched.dispatch.solver import Status

from .lagrange import PlacementLagrange
from .linear import SparseProgram


def starting_point(problem: PlacementProblem, time_limit_s: float | None) -> PlacementSolution:
    """The better of the two, with the fast path's lower bound; its placement is the programs' hint."""
    fast, stay = PlacementLagrange().solve(problem, time_limit_s=time_limit_s), staying(problem)
    if not stay.objective_s < fast.objective_s:
        return fast
    status = Status.OPTIMAL if stay.objective_s - fast.bound_s <= 1e-9 * stay.objective_s else Status.FEASIBLE
    bound_s = min(fast.bound_s, stay.objective_s)
    return PlacementSolution(status, stay.tier_LE, stay.gpu_LE, stay.objective_s, bound_s, fast.solve_s)


def hint(program: SparseProgram, placed: PlacementSolution) -> list[float]:
    """A value for every column: the placement, and the shortest layer-steps and round trips that its rows allow."""
    value_C = [0.0] * len(program.cost)
    for column, (tier, gpu, layer, expert) in enumerate(program.where):
        value_C[column] = float(placed.tier_LE[layer, expert] == tier and placed.gpu_LE[layer, expert] == gpu)
    entry, entries = 0, len(program.row_id)
    for row, low in enumerate(program.low):
        first, rest = program.column_id[entry], 0.0
        entry += 1
        while entry < entries and program.row_id[entry] == row:
            rest += program.value[entry] * value_C[program.column_id[entry]]
            entry += 1
        if first >= program.binaries:  # a round trip or a layer-step, with coefficient 1
            value_C[first] = max(value_C[first], low - rest)
    return value_C
