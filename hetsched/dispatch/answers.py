"""What is known of an answer as a number, and solvers that can be compiled into a step.

Shapes: N experts under decision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .solver import Fallback, Status

# Numbers of what is known of an answer, in the order of ANSWERS; 0: no solver was asked.
NOTHING, OPTIMAL, FEASIBLE, INCUMBENT, INFEASIBLE, WORSE = range(6)
ANSWERS = (
    "",
    Status.OPTIMAL.name,
    Status.FEASIBLE.name,
    Status.INCUMBENT.name,
    Fallback.INFEASIBLE.value,
    Fallback.WORSE.value,
)


class SolverKernel(NamedTuple):
    """A solver that can be compiled into a step: what `Solver.kernel(time_limit_s)` gives, where a solver has it.

    solve(packed, size, link_free_s, roundtrip_s, gpu_call_s, max_nodes, always_prove, limit_nodes)
        -> choice int8 [N], objective_s, bound_s

    with DispatchProblem.packed and the meaning of Solution. `limit_nodes`: what the time limit is worth, 0 for none.
    `name` and `sources`, modules with its kernels, tell compiled forms apart.
    """

    name: str
    sources: tuple[str, ...]
    solve: Callable[..., Any]
    max_nodes: int
    always_prove: int
    limit_nodes: int


def kernel_of(solver: object, time_limit_s: float | None) -> SolverKernel | None:
    """A solver's kernel; None where it has none, or one that does not speak for its `solve`, which is a subclass's."""
    order = type(solver).__mro__

    def place(method: str) -> int:
        return next((i for i, cls in enumerate(order) if method in vars(cls)), len(order))

    if place("kernel") == len(order) or place("kernel") > place("solve"):
        return None
    found: SolverKernel = solver.kernel(time_limit_s)  # type: ignore[attr-defined]
    return found
