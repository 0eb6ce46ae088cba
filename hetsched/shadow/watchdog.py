"""Watchdog: one run's watch as Python has it. Placements of the simple strategies, and moves, which it logs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import InputError
from ..policies.static import LayerSplit, StaticFrequency
from ..policy import Policy, Setting, is_compiled, traits_of
from ..types import ExpertId, IntArray
from . import (
    AGAIN,
    BACK,
    LAST_SEEN,
    LOOK,
    MOST_MOVES,
    MOVES,
    NEXT,
    SHARE,
    SPLIT_TARGETS,
    STAY,
    TARGETS,
    TRIAL,
    WORSE,
    new_watch,
    sections,
)

if TYPE_CHECKING:  # it imports numba, which takes long
    from ..policies.compiled import PolicyKernels

LOG = logging.getLogger("hetsched")
SIMPLE = ("cpu-only", "static-frequency", "layer-split", "fetch-all")
REASONS = {WORSE: "was worse", AGAIN: "to be tried again", LOOK: "to be measured", BACK: "was measured"}


class Move(NamedTuple):
    """One strategy in place of another, from the step after `step` on.

    `measured_s`: of a step of the one that was left, `expected_s`: of the other; of the experts alone where nothing was
    worse. `why`: of REASONS.
    """

    step: int
    left: str
    to: str
    measured_s: float
    expected_s: float
    why: str

    @property
    def is_switch(self) -> bool:
        """Whether the other is there to stay: not for a look, and not back from one."""
        return self.why in (REASONS[WORSE], REASONS[AGAIN])

    def line(self) -> str:
        """One line on what and why."""
        seconds = f"{1e3 * self.measured_s:.2f} ms a step measured, {1e3 * self.expected_s:.2f} ms expected"
        what = {
            REASONS[WORSE]: f"{self.left} is worse than {self.to} would be ({seconds}), so {self.to} decides",
            REASONS[AGAIN]: f"{self.to} is tried again in place of {self.left}",
            REASONS[LOOK]: f"{self.to} decides for a moment, to be measured",
            REASONS[BACK]: f"{self.to} decides again ({self.left}: {seconds})",
        }
        return f"hetsched: after step {self.step} {what[self.why]}"


class Watchdog:
    """Watches one policy. `trial`: steps after which the best rival is measured for as many; 0: never."""

    def __init__(self, setting: Setting, name: str, trial: int = 0) -> None:
        from .judging import CREDIT, REST  # numba takes long to import

        shape = setting.geometry
        self._names = (name, *SIMPLE)
        self.arrays = new_watch(shape.num_layers * shape.num_experts)
        self.watch = watch = sections(*self.arrays)
        self._moves, self._told = watch.at.data[MOVES:], 0
        watch.rests_A[:] = REST
        watch.at[[STAY, LAST_SEEN, TRIAL]] = CREDIT, -1, trial
        self.place(setting)

    def place(self, setting: Setting) -> None:
        """Where the simple strategies would have their experts, with so many slots."""
        shape, slots, watch = setting.geometry, setting.num_slots, self.watch
        watch.at[[SHARE, NEXT]] = slots // shape.num_layers, 0
        static = _flat(StaticFrequency().start(setting), shape.num_experts)[:slots]
        split = _flat(LayerSplit().start(setting), shape.num_experts)[:slots]
        watch.at[TARGETS], watch.at[SPLIT_TARGETS] = len(static), len(split)
        watch.targets_S[: len(static)], watch.split_S[: len(split)] = static, split
        watch.is_placed_F[:] = watch.is_split_F[:] = 0
        watch.is_placed_F[static] = watch.is_split_F[split] = 1

    def watched(self, kernels: PolicyKernels) -> PolicyKernels:
        """The policy's kernels with this watch in them."""
        from .watched import watched

        return watched(kernels, self.arrays)

    @property
    def has_moved(self) -> bool:
        """Whether new_moves has anything to say."""
        return self._moves[0] != self._told

    def new_moves(self) -> list[Move]:
        """What has happened since the last call, each with a line in the log of "hetsched"; at most MOST_MOVES."""
        count = self._moves[0]
        if count == self._told:
            return []
        moves = [self._move(i % MOST_MOVES) for i in range(max(self._told, count - MOST_MOVES), count)]
        self._told = count
        for move in moves:
            LOG.log(logging.WARNING if move.is_switch else logging.DEBUG, move.line())
        return moves

    def _move(self, row: int) -> Move:
        step, left, to, why = self.watch.moves_4W[:, row].tolist()
        measured_s, expected_s = self.watch.seconds_2W[:, row].tolist()
        return Move(step, self._names[left], self._names[to], measured_s, expected_s, REASONS[why])


def watchdog_of(policy: Policy, setting: Setting, watch: bool | None, trial: int, is_engine: bool) -> Watchdog | None:
    """Who watches a policy that was started; nobody where there is nothing to choose between.

    `watch` None: in engines, a policy that declares it and has kernels. Raises InputError where it was asked for and
    cannot be.
    """
    wanted = (is_engine and traits_of(policy).watched and is_compiled(policy)) if watch is None else watch
    if trial < 0:
        raise InputError(f"trial is {trial}; it must be a number of steps, 0 for no trial")
    if trial and watch is False:
        raise InputError(f"trial is {trial} beside watch=False, and nobody would see to it; drop one of the two")
    if not (wanted and setting.num_slots):
        return None
    if not is_compiled(policy):
        raise InputError(f"policy {policy.name} has no kernels, so it cannot be watched; drop watch=True")
    return Watchdog(setting, policy.name, trial)


def _flat(experts: Sequence[ExpertId], num_experts: int) -> IntArray:
    return np.array([layer * num_experts + e for layer, e in experts], np.int64)
