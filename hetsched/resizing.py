"""Between two steps the number of slots changes: who leaves, who moves to another slot, and who comes.

Shapes: L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .faults import Fault, story
from .residency import Move, Residency
from .scheduler import Scheduler
from .types import Evict, ExpertId, FloatArray

MUST_LEAVE = -np.inf  # what an expert is worth that may not stay, even where there is room


def resize(
    scheduler: Scheduler,
    num_slots: int,
    kept: int | None = None,
    move: Callable[[Sequence[Move]], None] = lambda moves: None,
) -> list[ExpertId]:
    """So many slots from now on; those that are resident only now, whose weights are still to be brought.

    Copies under way must have been given up. Slots below `kept` (None: all that stay) are the same memory as before.
    The residents of least worth leave: as the policy says (`resized`), else those that were demanded least. A static
    policy is asked for its placement anew. `move` copies the weights of those that stay, before anything else changes
    but that the others have left.
    """
    residency, target = scheduler.residency, list[ExpertId]()
    if scheduler.traits.static:
        target = list(scheduler.policy.start(replace(scheduler.setting, num_slots=num_slots)))[:num_slots]
        worth_LE = _placed(target, residency)
    else:
        worth_LE = _worth(scheduler, num_slots)
    for expert in leaving(residency, worth_LE, num_slots):
        residency.apply(Evict(expert, "its slot is given back"))
        scheduler.board.unused_F.reshape(worth_LE.shape)[expert] = 0
    moves = residency.moves(num_slots, min(residency.num_slots, num_slots) if kept is None else kept)
    move(moves)
    residency.resize(num_slots, moves)
    if scheduler.watchdog is not None:
        scheduler.watchdog.place(replace(scheduler.setting, num_slots=num_slots))
    return residency.fill(target)


def leaving(residency: Residency, worth_LE: FloatArray, num_slots: int) -> list[ExpertId]:
    """The residents that do not stay, the least first; among equals the one in the higher slot."""
    residents = residency.residents()
    residents.sort(key=lambda expert: (worth_LE[expert], -residency.slot(expert)))
    must = sum(worth_LE[expert] == MUST_LEAVE for expert in residents)
    return residents[: max(must, len(residents) - num_slots)]


def _placed(target: Sequence[ExpertId], residency: Residency) -> FloatArray:
    """Whoever is in a placement stays."""
    worth_LE: FloatArray = np.full(residency.state_LE.shape, MUST_LEAVE)
    for expert in target:
        worth_LE[expert] = 1.0
    return worth_LE


def _worth(scheduler: Scheduler, num_slots: int) -> FloatArray:
    """What the policy says, or where it says nothing, or fails, the tokens demanded so far."""
    demanded_LE: FloatArray = scheduler.tokens_LE.astype(float)
    resized: Callable[[int], FloatArray | None] | None = getattr(scheduler.policy, "resized", None)
    if resized is None:
        return demanded_LE
    try:
        worth_LE = resized(num_slots)
    except Exception as error:  # any plug-in may fail in any way
        scheduler.fault(Fault.POLICY, f"{scheduler.policy.name}: {story(error)}")
        return demanded_LE
    return demanded_LE if worth_LE is None else worth_LE
