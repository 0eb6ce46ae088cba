"""Dispatch by a published rule as a policy's kernel: the layer's dispatch problem, the rule's choice, its rows.

The rule is one of hetsched.solvers that has a kernel. Its choice stands even where leaving everything as it is were
better: it is the rule that is to be measured. Of places it sees only how many there are, so victims are looked for only
where it fetches. With one token most layers fetch nothing.

Shapes: F all experts flat (layer * E + expert), N active experts of the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..board import (
    ACTIVE,
    EXPERTS,
    FREE,
    GPU_CALL_S,
    LAYER,
    LAYERS,
    PLACES,
    PREDICTED_S,
    PROBLEM_CPU_S,
    PROBLEM_LINK_S,
    RESIDENT,
    SLOTS,
    UNDER_WAY,
    Board,
)
from ..board.rows import misses_on_cpu
from ..dispatch.answers import SolverKernel
from ..dispatch.judge import seconds
from ..jit import compiled_lean, specialised
from ..plugins import plugin
from ..types import FloatArray
from .compiled import DECIDED, PolicyKernels, stamp_of
from .pose_kernels import cheapest, columns, to_rows

if TYPE_CHECKING:  # a name that jit.specialised binds in the template below

    def solve(*problem: Any) -> tuple[Any, float, float]: ...


HERE = "hetsched.policies.rule_kernels"


class Ruled(NamedTuple):
    """What such a policy's `own` begins with.

    `keep_F`: victims go by ascending value, which must not be negative; only its order counts. `per_layer`: a fetch may
    only displace an expert of its own layer. `by_value`: the rule says how many experts are fetched, and those missing
    ones with the largest `keep_F` are, of equals the last.
    """

    keep_F: FloatArray
    per_layer: bool = False
    by_value: bool = False


def ruled(name: str, rule: str, module: str, own: tuple[Any, ...]) -> PolicyKernels:
    """The kernels of a policy, in `module`, that plans by this rule; `own` begins as Ruled does."""
    sources = (HERE, "hetsched.policies.idle_kernels", module, *rule_kernel(rule).sources)
    plan = specialised(name, _planning, stamp_of(*sources), solve=rule_kernel(rule).solve)
    return PolicyKernels(name, sources, plan, own=own)


def rule_kernel(rule: str) -> SolverKernel:
    """A rule's kernel."""
    kernel: SolverKernel = plugin("hetsched.solvers", rule)().kernel(None)
    return kernel


def _planning(stamp: int) -> Callable[..., int]:
    def plan(board: Board, seconds_4T: FloatArray, own: Any) -> int:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        keep_F, per_layer, by_value = own[0], own[1], own[2]
        at, size, layer = board.at, board.at[ACTIVE], board.at[LAYER]
        if not at[SLOTS]:
            misses_on_cpu(board, seconds_4T)
            return DECIDED
        missing = columns(board, seconds_4T, keep_F)
        at[PLACES] = min(missing, room(board, per_layer))
        packed_P, choice_N, fetches = board.packed_P[: 5 * size + at[PLACES]], board.choice_N[:size], 0
        packed_P[5 * size :] = 0.0
        lanes = board.now[PROBLEM_LINK_S], board.now[PROBLEM_CPU_S], board.machine[GPU_CALL_S]
        found_N, _, _ = solve(packed_P, size, *lanes, 0, 0, 0)
        for i in range(size):
            choice_N[i] = found_N[i]
            fetches += choice_N[i] == 2
        if fetches:
            if by_value:
                most_valued(board, keep_F, fetches)
            begin_layer, end_layer = (layer, layer + 1) if per_layer else (0, at[LAYERS])
            cheapest(board, keep_F, fetches, begin_layer, end_layer)
        board.now[PREDICTED_S], _ = seconds(packed_P, size, *lanes, choice_N)
        to_rows(board)
        return DECIDED

    return plan


@compiled_lean
def room(board: Board, per_layer: bool) -> int:
    """Places that fetches may take: free slots, and residents that are not active, of the layer or of all."""
    at, first, active, residents = board.at, board.at[LAYER] * board.at[EXPERTS], 0, 0
    for i in range(at[ACTIVE]):
        active += board.state_F[first + board.active_N[i]] == RESIDENT
    if per_layer:
        for f in range(first, first + at[EXPERTS]):
            residents += board.state_F[f] == RESIDENT
    else:
        residents = at[SLOTS] - at[FREE] - at[UNDER_WAY]
    return int(at[FREE] + residents - active)


@compiled_lean
def most_valued(board: Board, value_F: FloatArray, fetches: int) -> None:
    """Let as many be fetched, but of the missing those with the largest value, of equals the last."""
    size, first, choice_N = board.at[ACTIVE], board.at[LAYER] * board.at[EXPERTS], board.choice_N
    for i in range(size):
        if board.packed_P[4 * size + i] == np.inf:
            choice_N[i] = 0
    for _ in range(fetches):
        best = -1
        for i in range(size):
            is_left = board.packed_P[4 * size + i] == np.inf and choice_N[i] == 0
            if is_left and (best < 0 or value_F[first + board.active_N[i]] >= value_F[first + board.active_N[best]]):
                best = i
        choice_N[best] = 2
