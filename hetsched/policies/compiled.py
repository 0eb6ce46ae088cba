"""Compiled policies: what one supplies, and the calls that a scheduler makes of it.

A compiled policy has a method `kernels() -> PolicyKernels` in place of plan, observe and prefetch. Its kernels see
the board and arrays of its own, and write rows (board/rows.py); what they wrote goes through the same contract as any
policy's. A layer is then two calls: `step` once its router has spoken, `ahead` while the lanes work.

    plan(board, seconds_4T, own) -> DECIDED or ASKS   rows written, or a dispatch problem posed for a solver
    answer(board, seconds_4T, own)                    rows from the problem's answer
    learn(board, known)                               the layer's demand, into arrays of a forecaster's
    note(board, seconds_4T, own)                      after it, what the policy itself has to learn
    choose(board, seconds_4T, own)                    copies for an idle link

Shapes: L layers, E experts, N active experts, T tokens of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..board import (
    ACTIVE,
    COPIES,
    EXPERTS,
    GPU_CALL_S,
    LAYER,
    LIMIT_NODES,
    MAX_NODES,
    PLACES,
    PREDICTED_S,
    PROBLEM_CPU_S,
    PROBLEM_LINK_S,
    PROVE,
    STATUS,
    Arrays,
    Board,
    Bytes,
)
from ..board.contract import FINE, apply_copies, apply_plan, begin_layer, note_arrivals, open_board
from ..dispatch.answers import FEASIBLE, INFEASIBLE, OPTIMAL, WORSE, SolverKernel
from ..dispatch.judge import judge
from ..dispatch.solver import REL_TOL
from ..jit import bound, compiled_lean, inlined, source_stamp, specialised
from ..jit.c_call import CFunction
from ..types import Demand, Float32Array, FloatArray, IntArray

if TYPE_CHECKING:  # names that jit.specialised binds in the templates below

    def plan(board: Board, seconds_4T: FloatArray, own: Any) -> int: ...
    def answer(board: Board, seconds_4T: FloatArray, own: Any) -> None: ...
    def note(board: Board, seconds_4T: FloatArray, own: Any) -> None: ...
    def choose(board: Board, seconds_4T: FloatArray, own: Any) -> None: ...
    def learn(board: Board, known: Any) -> None: ...
    def ask(board: Board) -> bool: ...
    def decide(board: Board, seconds_4T: FloatArray, own: Any) -> int: ...
    def learn_layer(board: Board, seconds_4T: FloatArray, own: Any, known: Any) -> None: ...
    def solve(*problem: Any) -> tuple[npt.NDArray[np.int8], float, float]: ...


DECIDED, ASKS = 0, 100  # apart from what contract.py may say
SOURCES = (
    "hetsched.board",
    "hetsched.board.contract",
    "hetsched.board.rows",
    "hetsched.dispatch.judge",
    "hetsched.policies.compiled",
    "hetsched.policies.pose_kernels",
    "hetsched.policies.settle_kernels",
)


@compiled_lean
def never(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    """For a policy that asks no solver, or copies nothing ahead."""


@compiled_lean
def nothing(board: Board, known: Any) -> None:
    """For a policy that learns nothing."""


@cache
def stamp_of(*sources: str) -> int:
    """A number that changes with the source of these modules, and of those that all steps are made of."""
    return source_stamp(*SOURCES, *sources)


class PolicyKernels(NamedTuple):
    """What a compiled policy supplies. `name` tells its compiled forms apart on disk; `sources`: modules with kernels.

    `own`, `known`: the arrays that plan, answer and choose, and those that learn, are called with; plain tuples cost
    least. `observe`: a forecaster in Python is told by it, before the kernels learn. `foresee`: it is told by this of
    the tokens that the next step is to verify (Context.draft_DLE), where it asks for them; then comes `choose`.
    """

    name: str
    sources: tuple[str, ...]
    plan: Callable[..., int]
    answer: Callable[..., None] = never
    note: Callable[..., None] = never
    choose: Callable[..., None] = never
    learn: Callable[..., None] = nothing
    own: Any = ()
    known: Any = ()
    observe: Callable[[Demand], None] | None = None
    foresee: Callable[[Float32Array], None] | None = None

    def stamp(self, *more: str) -> int:
        """A number that changes with the source of any kernel."""
        return stamp_of(*self.sources, *more)


@compiled_lean
def ask_nobody(board: Board) -> bool:
    """In place of a solver that is not compiled: the caller has to ask it."""
    return False


def _ask(board: Board) -> bool:
    """The posed problem, answered by a compiled solver, or by what is always possible where the answer is worse."""
    at, size = board.at, board.at[ACTIVE]
    packed = board.packed_P[: 5 * size + at[PLACES]]
    link_s, start_s, call_s = board.now[PROBLEM_LINK_S], board.now[PROBLEM_CPU_S], board.machine[GPU_CALL_S]
    effort = at[MAX_NODES], at[PROVE], at[LIMIT_NODES]
    choice_N, objective_s, bound_s = solve(packed, size, link_s, start_s, call_s, *effort)
    feasible, makespan_s, prices_s, incumbent_s = judge(packed, size, link_s, start_s, call_s, choice_N)
    found_s = makespan_s + prices_s
    if feasible and found_s <= incumbent_s:
        tolerance_s = REL_TOL * max(abs(found_s), makespan_s)
        proved = bound_s <= found_s + tolerance_s and bound_s >= found_s - tolerance_s and bound_s == objective_s
        at[STATUS] = OPTIMAL if proved else FEASIBLE
        board.now[PREDICTED_S] = makespan_s
        for i in range(size):
            board.choice_N[i] = choice_N[i]
    else:
        at[STATUS] = WORSE if feasible else INFEASIBLE
        board.now[PREDICTED_S] = incumbent_s
        for i in range(size):
            board.choice_N[i] = packed[4 * size + i] == 0
    return True


@compiled_lean
def count_seen(board: Board) -> None:
    """Tokens demanded of each expert so far."""
    first = board.at[LAYER] * board.at[EXPERTS]
    for i in range(board.at[ACTIVE]):
        board.seen_F[first + board.active_N[i]] += board.tokens_N[i]


def _decide(board: Board, seconds_4T: FloatArray, own: Any) -> int:
    """One layer, from its demand on the board to the residency that follows."""
    begin_layer(board)
    if plan(board, seconds_4T, own) == ASKS:
        if not ask(board):
            return ASKS
        answer(board, seconds_4T, own)
    return apply_plan(board)


def _learn(board: Board, seconds_4T: FloatArray, own: Any, known: Any) -> None:
    """The layer's demand."""
    count_seen(board)
    learn(board, known)
    note(board, seconds_4T, own)


def _stepping(stamp: int) -> Callable[..., int]:
    def step(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, seconds_4T: FloatArray, own: Any) -> int:
        assert stamp >= 0
        board = open_board(bytes_B, ints_I, floats_R)
        return decide(board, seconds_4T, own)

    return step


def _answering(stamp: int) -> Callable[..., int]:
    def resume(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, seconds_4T: FloatArray, own: Any) -> int:
        assert stamp >= 0
        board = open_board(bytes_B, ints_I, floats_R)
        answer(board, seconds_4T, own)
        return apply_plan(board)

    return resume


def _looking_ahead(stamp: int) -> Callable[..., int]:
    def ahead(
        bytes_B: Bytes,
        ints_I: IntArray,
        floats_R: FloatArray,
        seconds_4T: FloatArray,
        own: Any,
        known: Any,
        learning: bool,
        choosing: bool,
    ) -> int:
        assert stamp >= 0
        board = open_board(bytes_B, ints_I, floats_R)
        note_arrivals(board)
        board.at[COPIES] = 0
        if learning:
            learn_layer(board, seconds_4T, own, known)
        if not choosing:
            return FINE
        choose(board, seconds_4T, own)
        return apply_copies(board)

    return ahead


class CompiledPolicy(NamedTuple):
    """The calls of one policy with one solver: each takes a board's arrays, the seconds by token and `own`.

    They return FINE, ASKS (step: a problem is posed, and the solver is none that is compiled), or what contract.py has
    against the decision. `ahead` takes `known` too, and whether to learn and to choose copies.
    """

    name: str
    step: Any
    resume: Any
    ahead: Any
    kernels: PolicyKernels
    solver: SolverKernel | None

    @property
    def is_whole(self) -> bool:
        """Whether nothing in Python is needed: the solver and the forecaster are compiled too."""
        asks_python = self.kernels.answer is not never and self.solver is None
        return not asks_python and self.kernels.observe is None

    @property
    def looks_ahead(self) -> bool:
        """Whether there is anything to learn or to choose while the lanes work, beside counting what is asked for."""
        kernels = self.kernels
        return not (kernels.learn is nothing and kernels.note is never and kernels.choose is never)

    def c_functions(self, arrays: Arrays, seconds_4T: FloatArray) -> tuple[CFunction, CFunction]:
        """`step`, and `ahead` that learns and chooses, on this board, to be called without the interpreter."""
        given = (*arrays, seconds_4T, self.kernels.own)
        return CFunction((self.step, given)), CFunction((self.ahead, (*given, self.kernels.known, True, True)))


def compiled_policy(kernels: PolicyKernels, solver: SolverKernel | None) -> CompiledPolicy:
    """A policy's calls, each compiled at its first use, or read from disk."""
    asked: Callable[[Board], bool] = ask_nobody
    named = kernels.name
    if solver is not None and kernels.answer is not never:
        asked = bound(solver.name, _ask, solve=solver.solve)
        named = f"{kernels.name} {solver.name}"
    stamp = kernels.stamp(*(solver.sources if solver else ()))
    decided = inlined(named, _decide, plan=kernels.plan, ask=asked, answer=kernels.answer)
    learned = inlined(kernels.name, _learn, learn=kernels.learn, note=kernels.note)
    return CompiledPolicy(
        named,
        specialised(named, _stepping, stamp, decide=decided),
        specialised(kernels.name, _answering, stamp, answer=kernels.answer),
        specialised(kernels.name, _looking_ahead, stamp, learn_layer=learned, choose=kernels.choose),
        kernels,
        solver,
    )
