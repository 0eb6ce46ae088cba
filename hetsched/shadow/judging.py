"""Kernels of the judgement at the end of each step: whether another strategy should decide the next ones.

For every rival a sum of what it would have saved is kept, in its own step times, that falls by MARGIN a step and never
below nothing (a CUSUM test: Page, "Continuous inspection schemes", Biometrika 1954). Where it exceeds HELD the rival
decides: a strategy that is twice as slow is left after five steps, one that is 13 % slower after forty, and one within
the margin never. What a rival would take is the shadow's figure; after it has been left, for some time its measured
seconds for each active expert, since a profile that lies deceives the shadow too. The original has no shadow: it is
measured, left, and tried again after REST steps, then 2 * REST and so on; such a trial ends at TRIAL_HELD.

Steps of prefill are not judged. Shapes: A strategies.
"""

from __future__ import annotations

from ..board import (
    S_DECISION,
    S_DENSE,
    S_HOST,
    S_HOST_INSIDE,
    S_MAKESPAN,
    S_PREDICTED,
    STEP,
    Board,
)
from ..jit import compiled_lean
from . import (
    ACTIVE_NOW,
    AGAIN,
    BACK,
    CPU_ONLY,
    DECIDES,
    EXPECTED,
    FROM,
    LAST_COMMON,
    LAST_MAKESPAN,
    LAST_PREDICTED,
    LAST_SEEN,
    LOOK,
    LOOKING,
    MEASURED,
    MOST_MOVES,
    MOVES,
    NEXT,
    ON_TRIAL,
    ORIGINAL,
    PHASE_NOW,
    STAY,
    STEPS,
    STRATEGIES,
    TO,
    TRIAL,
    WHY,
    WORSE,
    Watch,
)
from . import STEP as MOVED_AT

PREFILL = 0  # as types.Phase
MARGIN = 0.03  # of a step, by which a rival must be better: what two equal strategies differ by, and a switch costs
HELD = 4.0  # step times lost before a rival decides: outliers of one step do not, and little is lost by waiting
TRIAL_HELD = 2.0  # the same while the original is on trial: it has been measured to be worse before
WILDEST = 1.5  # step times that one step may add, of a strategy that has decided for more than CREDIT steps
CREDIT = 8
TRIAL_STEPS = 32
REST = 64  # steps before a strategy that was left is tried again, at first
SIMPLE_GROWTH, ORIGINAL_GROWTH = 4, 2  # of that, each time: a shadow that deceived once is trusted less
PROVEN = 256  # steps after which a strategy begins with REST again
MOST_REST = 1 << 14
RATE = 0.1  # of the average over measured steps


@compiled_lean
def judge(board: Board, watch: Watch) -> None:
    """Take the step that has ended into account; the strategy that decides the next one is then in at[DECIDES]."""
    at, now, sums_s = watch.at, watch.now, board.sums_s
    common_s = sums_s[S_DENSE] + sums_s[S_HOST] - sums_s[S_HOST_INSIDE] + sums_s[S_DECISION]
    makespan_s = sums_s[S_MAKESPAN] - now[LAST_MAKESPAN]
    shared_s = max(common_s - now[LAST_COMMON], 0.0)
    predicted_s = sums_s[S_PREDICTED] - now[LAST_PREDICTED]
    now[LAST_MAKESPAN], now[LAST_COMMON] = sums_s[S_MAKESPAN], common_s
    now[LAST_PREDICTED] = sums_s[S_PREDICTED]
    if at[ACTIVE_NOW] and at[PHASE_NOW] != PREFILL and makespan_s > 0.0:
        at[STEPS] += 1
        remember(watch, makespan_s, predicted_s)
        weigh(watch, makespan_s, shared_s)
        at[STAY] += 1
        decide_who(watch)
    watch.step_s_A[:] = 0.0
    at[ACTIVE_NOW] = 0
    at[LAST_SEEN] = board.at[STEP]


@compiled_lean
def remember(watch: Watch, makespan_s: float, predicted_s: float) -> None:
    """Seconds for each active expert of the strategy that decided; of a simple one, as if its placement were there."""
    at = watch.at
    who = at[DECIDES]
    settled_s = makespan_s
    if who != ORIGINAL and predicted_s > 0.0:
        settled_s *= watch.step_s_A[who] / predicted_s
    rate = max(RATE, 1.0 / (at[STAY] + 1)) if watch.measured_s_A[who] > 0.0 else 1.0
    watch.measured_s_A[who] += rate * (settled_s / at[ACTIVE_NOW] - watch.measured_s_A[who])


@compiled_lean
def weigh(watch: Watch, makespan_s: float, shared_s: float) -> None:
    """Add to every rival what it would have saved in this step."""
    at = watch.at
    if at[LOOKING]:
        return
    for rival in range(STRATEGIES):
        if rival == at[DECIDES]:
            continue
        rival_s = watch.step_s_A[rival]
        if rival == ORIGINAL or at[STEPS] < watch.known_until_A[rival]:
            rival_s = watch.measured_s_A[rival] * at[ACTIVE_NOW]
        expected_s, measured_s = rival_s + shared_s, makespan_s + shared_s
        saved = (measured_s - (1.0 + MARGIN) * expected_s) / expected_s
        if at[STAY] >= CREDIT:
            saved = min(saved, WILDEST)
        watch.lost_A[rival] += saved
        watch.span_3A[0, rival] += 1.0
        watch.span_3A[1, rival] += measured_s
        watch.span_3A[2, rival] += expected_s
        if watch.lost_A[rival] <= 0.0:
            watch.lost_A[rival] = 0.0
            watch.span_3A[:, rival] = 0.0


@compiled_lean
def decide_who(watch: Watch) -> None:
    """Move to the strategy that is to decide next, if that is another."""
    at, rival = watch.at, 0
    if at[LOOKING]:
        at[LOOKING] -= 1
        if not at[LOOKING]:
            move(watch, ORIGINAL, BACK)
        return
    for other in range(STRATEGIES):
        if watch.lost_A[other] > watch.lost_A[rival]:
            rival = other
    if at[STAY] > TRIAL_STEPS:
        at[ON_TRIAL] = 0
    if watch.lost_A[rival] > (TRIAL_HELD if at[ON_TRIAL] else HELD):
        move(watch, rival, WORSE)
    elif at[DECIDES] != ORIGINAL:
        if at[STEPS] >= watch.known_until_A[ORIGINAL]:
            move(watch, ORIGINAL, AGAIN)
    elif at[TRIAL] and at[STEPS] == at[TRIAL]:
        move(watch, best_shadow(watch), LOOK)
        at[LOOKING] = at[TRIAL]


@compiled_lean
def best_shadow(watch: Watch) -> int:
    """The simple strategy that would have taken least in this step."""
    best = CPU_ONLY
    for other in range(CPU_ONLY, STRATEGIES):
        if watch.step_s_A[other] < watch.step_s_A[best]:
            best = other
    return best


@compiled_lean
def move(watch: Watch, to: int, why: int) -> None:
    """Let another strategy decide."""
    at = watch.at
    left = at[DECIDES]
    write_down(watch, to, why)
    if why == WORSE:
        if at[STAY] >= PROVEN:
            watch.rests_A[left] = REST
        watch.known_until_A[left] = at[STEPS] + watch.rests_A[left]
        growth = ORIGINAL_GROWTH if left == ORIGINAL else SIMPLE_GROWTH
        watch.rests_A[left] = min(growth * watch.rests_A[left], MOST_REST)
    elif left != ORIGINAL:
        watch.known_until_A[left] = max(watch.known_until_A[left], at[STEPS] + TRIAL_STEPS)
    at[DECIDES], at[NEXT], at[ON_TRIAL] = to, 0, why == AGAIN
    at[STAY] = CREDIT if why == BACK else 0
    watch.lost_A[:] = 0.0
    watch.span_3A[:] = 0.0


@compiled_lean
def write_down(watch: Watch, to: int, why: int) -> None:
    """Note a move: when, who, why, and seconds of a step measured of the one and expected of the other.

    Where one was worse, means over the steps for which it was, everything counted; else of the experts alone.
    """
    at, left = watch.at, watch.at[DECIDES]
    row = at[MOVES] % MOST_MOVES
    watch.moves_4W[MOVED_AT, row], watch.moves_4W[FROM, row] = at[LAST_SEEN], left
    watch.moves_4W[TO, row], watch.moves_4W[WHY, row] = to, why
    measured_s, expected_s = watch.measured_s_A[left] * at[ACTIVE_NOW], watch.measured_s_A[to] * at[ACTIVE_NOW]
    if why == LOOK:
        expected_s = watch.step_s_A[to]
    if why == WORSE:
        steps = watch.span_3A[0, to]
        measured_s, expected_s = watch.span_3A[1, to] / steps, watch.span_3A[2, to] / steps
    watch.seconds_2W[MEASURED, row], watch.seconds_2W[EXPECTED, row] = measured_s, expected_s
    at[MOVES] += 1
