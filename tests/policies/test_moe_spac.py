"""moe-spac's integer program against other ways to solve it, and what its inertia is for."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pulp
import pytest

from hetsched.board import ABSENT, COPY_S, COPYING, FREE, GPU_CALL_S, RESIDENT, Board, new_board, open_board
from hetsched.errors import InputError
from hetsched.machine.gallery import machine
from hetsched.policies.moe_spac import MoeSpac, MoeSpacFixed
from hetsched.policies.moe_spac_kernels import FROZEN, Levels, first_levels
from hetsched.policies.moe_spac_program import COPIES, LEAVERS, NOBODY, Program, mark, new_program, solve
from hetsched.scheduler import Scheduler
from hetsched.testing.policies import HARDWARE, SHAPE
from hetsched.types import LinkState, Outcome, Phase

LAYERS, EXPERTS, STEPS = 3, 6, 3


class Case(NamedTuple):
    """A program with random demand, levels and residency."""

    board: Board
    levels: Levels
    program: Program


def case(seed: int, free: int, stride: int = 2) -> Case:
    """Some steps of demand; `free` slots."""
    rng, flat = np.random.default_rng(seed), LAYERS * EXPERTS
    board = open_board(*new_board(LAYERS, EXPERTS, flat))
    board.at[FREE] = free
    board.state_F[:] = rng.choice([ABSENT, COPYING, RESIDENT], flat, p=[0.5, 0.1, 0.4])
    board.machine[COPY_S], board.machine[GPU_CALL_S] = rng.choice([0.5, 4.0]), rng.choice([0.0, 1.0])
    levels = first_levels(flat, 5, 1, 1)
    levels.level_F[:] = rng.integers(0, 6, flat)
    program = new_program(LAYERS, EXPERTS, STEPS, 4.0, stride)
    demanded_MF = rng.random((STEPS, flat)) < 0.6
    program.cpu_s_MF[:] = demanded_MF * rng.integers(2, 9, (STEPS, flat))
    program.gpu_s_MF[:] = demanded_MF * rng.integers(1, 4, (STEPS, flat))
    program.start_s_M[:] = rng.choice([0.0, 1.5])
    program.seen[0] = rng.integers(1, 2 * STEPS)
    return Case(board, levels, program)


def ranked(made: Case, layer: int, state: int) -> list[int]:
    """Candidates of a layer in the order in which they move."""
    worth_F, level_F = made.program.cpu_s_MF.sum(axis=0), made.levels.level_F
    span = range(layer * EXPERTS, (layer + 1) * EXPERTS)
    there = [f for f in span if made.board.state_F[f] == state and (state == RESIDENT or level_F[f] >= 1)]
    sign = 1 if state == RESIDENT else -1
    return sorted(there, key=lambda f: (sign * level_F[f], sign * worth_F[f], f))[: made.program.stride]


def lanes_s(made: Case, layer: int, moved: set[int]) -> float:
    """The longer lane of a layer, mean over the remembered steps, after these experts have changed sides."""
    program, steps = made.program, min(int(made.program.seen[0]), STEPS)
    total_s = 0.0
    for m in range(steps):
        sides: dict[bool, list[float]] = {True: [], False: []}
        for f in range(layer * EXPERTS, (layer + 1) * EXPERTS):
            if program.cpu_s_MF[m, f]:
                on_gpu = bool(made.board.state_F[f] != ABSENT) != (f in moved)
                sides[on_gpu].append(float((program.gpu_s_MF if on_gpu else program.cpu_s_MF)[m, f]))
        gpu_s = made.board.machine[GPU_CALL_S] + sum(sides[True]) if sides[True] else 0.0
        cpu_s = program.start_s_M[m] + sum(sides[False]) if sides[False] else 0.0
        total_s += max(gpu_s, cpu_s)
    return total_s / steps


def by_trying(made: Case) -> float:
    """The least cost of all choices of all layers."""
    options: list[list[tuple[int, int, float]]] = []
    for layer in range(LAYERS):
        new, old = ranked(made, layer, ABSENT), ranked(made, layer, RESIDENT)
        level_F, here = made.levels.level_F, list[tuple[int, int, float]]()
        for a, b in itertools.product(range(len(new) + 1), range(len(old) + 1)):
            if not (a and b) or level_F[new[a - 1]] > level_F[old[b - 1]]:
                seconds = made.program.horizon * lanes_s(made, layer, {*new[:a], *old[:b]})
                here.append((a, b, seconds + a * float(made.board.machine[COPY_S])))
        options.append(here)
    free, least_s = int(made.board.at[FREE]), np.inf
    for chosen in itertools.product(*options):
        copies, leavers = sum(a for a, _, _ in chosen), sum(b for _, b, _ in chosen)
        if (copies <= free and not leavers) if free else copies == leavers:
            least_s = min(least_s, sum(seconds for _, _, seconds in chosen))
    return least_s


def by_pulp(made: Case) -> float:
    """The program as it is stated, with a variable for each expert that may move, by CBC."""
    asked, program, free = pulp.LpProblem("boundaries", pulp.LpMinimize), made.program, int(made.board.at[FREE])
    steps, level_F, parts = min(int(program.seen[0]), STEPS), made.levels.level_F, []
    copies, leavers = [], []
    for layer in range(LAYERS):
        new, old = ranked(made, layer, ABSENT), ranked(made, layer, RESIDENT)
        moves = {f: pulp.LpVariable(f"moves_{f}", cat="Binary") for f in (*new, *old)}
        for order in (new, old):
            for first, then in itertools.pairwise(order):
                asked += moves[then] <= moves[first]
        for f, g in itertools.product(new, old):
            if level_F[f] <= level_F[g]:
                asked += moves[f] + moves[g] <= 1
        copies += [moves[f] for f in new]
        leavers += [moves[f] for f in old]
        for m in range(steps):
            longer = pulp.LpVariable(f"longer_{layer}_{m}", lowBound=0)
            parts.append(longer)
            for is_gpu, seconds_F, once_s in (
                (True, program.gpu_s_MF[m], made.board.machine[GPU_CALL_S]),
                (False, program.cpu_s_MF[m], program.start_s_M[m]),
            ):
                begun = pulp.LpVariable(f"begun_{layer}_{m}_{is_gpu}", cat="Binary")
                lane = once_s * begun
                for f in range(layer * EXPERTS, (layer + 1) * EXPERTS):
                    if program.cpu_s_MF[m, f]:
                        starts_here = bool(made.board.state_F[f] != ABSENT) == is_gpu
                        runs_here = (1 - moves[f] if starts_here else moves[f]) if f in moves else int(starts_here)
                        lane += float(seconds_F[f]) * runs_here
                        asked += begun >= runs_here
                asked += longer >= lane
    asked += pulp.lpSum(copies) <= free if free else pulp.lpSum(copies) == pulp.lpSum(leavers)
    if free:
        asked += pulp.lpSum(leavers) == 0
    asked += program.horizon / steps * pulp.lpSum(parts) + made.board.machine[COPY_S] * pulp.lpSum(copies)
    assert pulp.LpStatus[asked.solve(pulp.PULP_CBC_CMD(msg=False))] == "Optimal"
    return float(pulp.value(asked.objective))


@pytest.mark.parametrize("free", [0, 2])
def test_the_program_is_solved_exactly(free: int) -> None:
    """As by trying all choices and, some of them, as by a general solver; and the answer costs what is said of it."""
    moved = 0
    for seed in range(60):
        made = case(seed, free)
        least_s = solve(made.board, made.levels, made.program)
        assert least_s == pytest.approx(by_trying(made))
        if seed < 8:
            assert least_s == pytest.approx(by_pulp(made))
        copies_L, leavers_L = made.program.moves_2L[COPIES], made.program.moves_2L[LEAVERS]
        assert (copies_L.sum() <= free and not leavers_L.sum()) if free else copies_L.sum() == leavers_L.sum()
        cost_s = float(made.board.machine[COPY_S] * copies_L.sum())
        for layer in range(LAYERS):
            new, old = ranked(made, layer, ABSENT)[: copies_L[layer]], ranked(made, layer, RESIDENT)[: leavers_L[layer]]
            cost_s += made.program.horizon * lanes_s(made, layer, {*new, *old})
        assert least_s == pytest.approx(cost_s)
        moved += int(copies_L.sum())
    assert moved > 60


def test_the_answer_is_marked() -> None:
    made = case(3, 0)
    solve(made.board, made.levels, made.program)
    mark(made.levels, made.program)
    hot, leaving = np.flatnonzero(made.levels.hot_F), np.flatnonzero(made.levels.keep_F < FROZEN)
    assert len(hot) == len(leaving) == made.program.moves_2L[COPIES].sum() > 0
    assert (made.board.state_F[hot] == ABSENT).all()
    assert (made.board.state_F[leaving] == RESIDENT).all()
    assert (made.levels.keep_F[leaving] == made.levels.level_F[leaving]).all()


def test_nothing_moves_below_level_1_or_before_a_step() -> None:
    made = case(1, 0)
    made.levels.level_F[:] = 0
    assert solve(made.board, made.levels, made.program) == 0.0
    assert (made.program.new_LD == NOBODY).all()
    unseen = case(1, 0)
    unseen.program.seen[0] = 0
    assert solve(unseen.board, unseen.levels, unseen.program) == 0.0
    assert not unseen.program.moves_2L.any()


def test_a_copy_that_does_not_pay_within_the_horizon_is_not_made() -> None:
    """The same demand with copies a thousand times as long."""
    made = case(3, 0)
    solve(made.board, made.levels, made.program)
    assert made.program.moves_2L[COPIES].sum() > 0
    made.board.machine[COPY_S] *= 1e3
    solve(made.board, made.levels, made.program)
    assert not made.program.moves_2L.any()


def run(policy: Any, demanded: list[list[int]], tokens: int, slots: int = 8) -> Scheduler:
    """Verify steps in which all tokens of each layer go to the step's experts; copies arrive before the next layer."""
    made = Scheduler(SHAPE, machine(HARDWARE), slots * SHAPE.expert_bytes, policy=policy)
    for experts in demanded:
        tokens_E = np.zeros(SHAPE.num_experts, np.int64)
        tokens_E[experts] = tokens
        for layer in range(SHAPE.num_layers):
            arrived = LinkState(arrived=tuple(made.residency.copying()))
            plan = made.step(made.demand(layer, tokens_E, tokens, Phase.VERIFY), arrived)
            made.prefetch()
            made.observe(Outcome(plan, 1e-4, plan.predicted_s))
    return made


ONE, OTHER = [6, 7], [9, 10]  # neither is resident at first


def test_alternating_demand_does_not_flap() -> None:
    """Two sets of experts take turns: a fixed threshold copies all along, boundaries with inertia come to rest."""
    turns = [ONE, OTHER] * 30
    fixed, online = run(MoeSpacFixed(), turns, 9), run(MoeSpac(), turns, 9)
    hasty = run(MoeSpac(window=1), turns, 9)
    assert fixed.stats.prefetches > 100
    assert online.stats.prefetches <= 2 * 4 * SHAPE.num_layers  # at most once for each that is demanded
    assert hasty.stats.prefetches > 3 * online.stats.prefetches
    before = run(MoeSpac(), turns[:30], 9).stats.prefetches
    assert online.stats.prefetches == before  # at rest


def test_a_lasting_change_is_followed() -> None:
    """Inertia holds back what does not last; what does is copied, until the lanes are in balance."""
    before = run(MoeSpac(), [ONE] * 20, 9)
    after = run(MoeSpac(), [ONE] * 20 + [OTHER] * 30, 9)
    assert 0 < before.stats.prefetches < after.stats.prefetches
    assert {expert.expert for expert in after.residency.residents()} & set(OTHER)


@pytest.mark.parametrize("policy", [MoeSpacFixed, MoeSpac])
def test_fewer_than_four_drafts_never_raise_a_level(policy: Any) -> None:
    """K drafts are K + 1 tokens: with K = 3 even an expert that all of them want stays at level 0, with K = 4 not."""
    for drafts, raised in ((1, False), (2, False), (3, False), (4, True)):
        made = policy()
        moved = run(made, [ONE] * 20, drafts + 1).stats.prefetches
        assert made.level_LE.any() == raised
        assert (moved > 0) == raised


def test_level_five_needs_eight_drafts() -> None:
    """Level s rises with s + 5 tokens: 9 of them reach level 5, 8 do not."""
    for drafts, highest in ((4, 1), (7, 4), (8, 5), (12, 5)):
        made = MoeSpacFixed()
        run(made, [ONE] * 20, drafts + 1)
        assert made.level_LE.max() == highest


def test_the_running_layer_is_frozen() -> None:
    """However low it is, no expert of the layer that runs leaves."""
    made = Scheduler(SHAPE, machine(HARDWARE), 8 * SHAPE.expert_bytes, policy="moe-spac-fixed")
    tokens_E, evicted = np.zeros(SHAPE.num_experts, np.int64), 0
    tokens_E[ONE] = 9
    for layer in [*range(SHAPE.num_layers)] * 6:
        arrived = LinkState(arrived=tuple(made.residency.copying()))
        made.step(made.demand(layer, tokens_E, 9, Phase.VERIFY), arrived)
        victims = [fetch.victim for fetch in made.prefetch().fetches]
        evicted += len(victims)
        assert all(victim is None or victim.layer != layer for victim in victims)
    assert evicted > 0


def test_prefill_is_not_among_the_steps_remembered() -> None:
    made = MoeSpac()
    scheduler = Scheduler(SHAPE, machine(HARDWARE), 8 * SHAPE.expert_bytes, policy=made)
    for phase, seen in ((Phase.PREFILL, 0), (Phase.VERIFY, 1), (Phase.PREFILL, 1), (Phase.DECODE, 2)):
        for layer in range(SHAPE.num_layers):
            scheduler.step(scheduler.demand(layer, np.full(SHAPE.num_experts, 5), 20, phase))
            scheduler.prefetch()
        assert made.program.seen[0] == seen
    assert made.level_LE.max() == 1


@pytest.mark.parametrize("wrong", [{"window": 0}, {"horizon": 0.0}, {"stride": 0}, {"stride": 9}])
def test_arguments_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="moe-spac's window"):
        MoeSpac(**wrong)
