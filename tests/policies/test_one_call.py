"""One call: what a compiled policy's kernels find on the board, and what they wrote, as by the board's own views."""

from __future__ import annotations

from typing import Any

import numpy as np

from hetsched.board import ACTIVE, FLYING, KEPT, LAYER, LINK_FREE_S, NEW_REQUEST, WEIGHTED, new_board, open_board
from hetsched.deciders.compiled import CompiledDecider
from hetsched.deciders.one_call import OneCall
from hetsched.deciders.views import Views
from hetsched.machine import gallery
from hetsched.scheduler import Scheduler
from hetsched.testing.policies import SHAPE
from hetsched.types import Demand, ExpertId, LinkState, Phase, Plan, RoutedDemand

LAYERS, EXPERTS = SHAPE.num_layers, SHAPE.num_experts


def told(random: Any, step: int) -> tuple[Demand, LinkState]:
    """A demand of a few tokens, some with router weights or drafts, some by a router's ids; a link with copies."""
    tokens = int(random.integers(1, 5))
    if random.random() < 0.5:
        return routed(random, step, tokens), LinkState(float(random.random()))
    tokens_E = np.bincount(random.integers(0, EXPERTS, 2 * tokens), minlength=EXPERTS)
    weights_E = random.random(EXPERTS) if random.random() < 0.5 else None
    drafts = (tokens_E * 0.5, tokens / 2) if random.random() < 0.5 else (None, None)
    new, layer = bool(random.random() < 0.5), step % LAYERS
    demand = Demand(step, layer, Phase.DECODE, tokens_E, tokens, weights_E, new, *drafts)
    flying = random.permutation(LAYERS * EXPERTS)[: random.integers(0, 4)].tolist()
    in_flight = tuple((ExpertId(*divmod(f, EXPERTS)), float(random.random())) for f in flying)
    return demand, LinkState(float(random.random()), (), in_flight)


def routed(random: Any, step: int, tokens: int) -> Demand:
    """By ids, of which a token may have one twice, and of which some are of no expert here."""
    here = int(random.integers(1, EXPERTS + 1))
    ids_TK = random.integers(0, EXPERTS + 2, (tokens, 3))
    ids = ids_TK.ctypes.data, 3, here, lambda: ids_TK
    made = RoutedDemand(step, step % LAYERS, Phase.DECODE, tokens, EXPERTS, bool(random.random() < 0.5), ids)
    tokens_E = np.bincount(ids_TK.ravel(), minlength=EXPERTS)[:here]
    assert made.active == tokens_E.nonzero()[0].tolist()
    assert made.tokens == tokens_E[tokens_E > 0].tolist()
    return made


def test_the_board_is_told_and_read_as_by_its_views() -> None:
    made = Scheduler(SHAPE, gallery.machine("rtx-4060-laptop-8gb"), 9 * SHAPE.expert_bytes, policy="cpu-only")
    assert isinstance(made.decider, CompiledDecider)
    board, other = made.board, open_board(*new_board(LAYERS, EXPERTS, 9))
    views, one = Views(other), OneCall(made.decider.calls, made.arrays, made.seconds, Views(board))
    random, copies = np.random.default_rng(3), 0
    for step in range(120):
        demand, link = told(random, step)
        assert one.step(demand, link) == 0
        views.tell(demand, link)
        n, flying = len(demand.active), len(link.in_flight)
        copies += flying
        for place in (*range(LAYER, ACTIVE + 1), NEW_REQUEST, WEIGHTED, FLYING):
            assert board.at[place] == other.at[place]
        assert (board.now[[LINK_FREE_S, KEPT]] == other.now[[LINK_FREE_S, KEPT]]).all()
        for name, count in {"active_N": n, "tokens_N": n, "flying_F": flying, "left_s_F": flying}.items():
            assert (getattr(board, name)[:count] == getattr(other, name)[:count]).all()
        if demand.kept_N is not None:
            assert (board.kept_N[:n] == demand.kept_N).all()
        if demand.weights_E is not None:
            assert (board.weights_E == demand.weights_E).all()
        lists = demand.active, demand.tokens  # as Python reads them
        plan = one.plan(demand)
        assert (demand.active, demand.tokens) == lists
        seen = Views(board).plan(demand)
        runs = plan.runs
        assert runs == seen.runs
        assert [list(numbers) for numbers in plan.lanes()] == [list(numbers) for numbers in Plan(demand, runs).lanes()]
        assert (plan.fetches, plan.evicts, plan.predicted_s) == (seen.fetches, seen.evicts, seen.predicted_s)
        assert [(run.expert.expert, run.num_tokens) for run in runs] == list(
            zip(demand.active, demand.tokens, strict=True)
        )
    assert copies > 20


def test_seconds_that_change_are_seen() -> None:
    """After a recalibration the kernels decide by the new tables, and for more tokens by longer ones."""
    made = Scheduler(SHAPE, gallery.machine("rtx-4060-laptop-8gb"), 9 * SHAPE.expert_bytes, policy="cpu-only")
    tokens_E = np.bincount([1, 2], minlength=EXPERTS)

    def predicted_s(tokens: int) -> float:
        return made.step(made.demand(0, tokens_E * tokens, tokens, Phase.DECODE)).predicted_s

    before_s, more_s = predicted_s(1), predicted_s(40)
    made.cost.recalibrate(dict.fromkeys(("gpu", "cpu", "copy", "dense"), 3.0))
    assert np.isclose(predicted_s(1), 3 * before_s)
    assert np.isclose(predicted_s(40), 3 * more_s)
