"""A cache's rule as a compiled policy: one visit of a layer, served, and its fetches as rows.

Shapes: F all experts flat (layer * E + expert), N active experts of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..board import ABSENT, ACTIVE, EXPERTS, LAYER, NO_EXPERT, TOKENS, Board
from ..board.rows import WAS_MISSED, fetch, misses_on_cpu
from ..jit import bound, compiled_lean
from ..types import FloatArray
from .compiled import DECIDED, PolicyKernels
from .on_demand_kernels import SOURCES, Kernel, Slots, Visits, take_stock

if TYPE_CHECKING:  # names that jit.bound binds below

    def serve(rule: Any, slots: Slots, visits: Visits) -> None: ...
    def run_all(board: Board, seconds_4T: FloatArray) -> None: ...


HERE = "hetsched.policies.on_demand_plan"
SCRATCH = 7  # rows: the visit; hits, fetched, evicted; new, victim, lowest


@compiled_lean
def follow(board: Board, slots: Slots) -> None:
    """Bring the rule's view of the residency up to date, where its fetches are not all that has happened."""
    is_same = True
    for f in range(len(slots.state_F)):
        is_same &= slots.state_F[f] == board.state_F[f] or board.state_F[f] == NO_EXPERT
    if not is_same:
        for f in range(len(slots.state_F)):
            slots.state_F[f] = ABSENT if board.state_F[f] == NO_EXPERT else board.state_F[f]
        take_stock(slots)


def _plan(board: Board, seconds_4T: FloatArray, own: Any) -> int:
    """One visit, served. `own` begins with the cache's arrays."""
    slots, rule, scratch_7N = own[0], own[1], own[2]
    active, first = board.at[ACTIVE], board.at[LAYER] * board.at[EXPERTS]
    follow(board, slots)
    for i in range(active):
        scratch_7N[0, i] = first + board.active_N[i]
    scratch_7N[1, 0] = scratch_7N[2, 0] = scratch_7N[3, 0] = 0
    flat_RN = scratch_7N[0, :active].reshape(1, active)
    hits_R, fetched_R, evicted_R = scratch_7N[1, :1], scratch_7N[2, :1], scratch_7N[3, :1]
    new_N, victim_N, lowest_N = scratch_7N[4], scratch_7N[5], scratch_7N[6]
    visits = Visits(flat_RN, hits_R, fetched_R, evicted_R, new_N, victim_N, lowest_N, board.at[TOKENS])
    serve(rule, slots, visits)
    for i in range(fetched_R[0]):
        fetch(board, new_N[i], victim_N[i], WAS_MISSED)
    run_all(board, seconds_4T)
    return DECIDED


def kernels_of(
    name: str, module: str, serve: Kernel, slots: Slots, rule: Any, run_all: Callable[..., None] = misses_on_cpu
) -> PolicyKernels:
    """The kernels of a rule that `module` holds. `run_all` writes where experts run once fetches are decided."""
    sources = (HERE, *SOURCES, module)
    plan = bound(name, _plan, serve=serve, run_all=run_all)
    scratch_7N = np.zeros((SCRATCH, slots.experts), np.int64)
    return PolicyKernels(name, sources, plan, own=(slots, rule, scratch_7N))
