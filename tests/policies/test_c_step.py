"""The compiled step as a C function: what it says of a token is what the scheduler says, and nobody holds it up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hetsched.board import ARRIVED, FLYING, LINK_FREE_S
from hetsched.deciders.c_step import CStep
from hetsched.deciders.c_step_kernels import ask_for, note_link, want
from hetsched.deciders.mail import ARRIVED as DONE
from hetsched.deciders.mail import IDLE, CopyServer, new_mail, new_queue
from hetsched.errors import InputError
from hetsched.policies.utility import Utility
from hetsched.types import Demand, ExpertId, Phase
from tests.policies.c_token import MOST_TOKENS, SHAPE, PlainLink, Token, made, planned
from tests.test_c_call import run_in_c_thread

STEPS = 30


def routing(random: np.random.Generator, tokens: int) -> tuple[Any, Any]:
    """Ids, some of them likelier, no id twice in a token and layer; and weights: [T, L, K]."""
    favour_E = 1.0 / np.arange(1, SHAPE.num_experts + 1)
    noise = random.gumbel(size=(tokens, SHAPE.num_layers, SHAPE.num_experts))
    ids_TLK = np.argsort(-noise - np.log(favour_E), axis=-1)[..., : SHAPE.top_k]
    return ids_TLK, random.random(ids_TLK.shape).astype(np.float32)


@pytest.mark.parametrize(("policy", "slots"), [("hetsched", 16), ("hetsched", 0), ("on-demand-lru", 14), ("dali", 20)])
def test_whole_tokens_in_a_thread_of_c_are_decided_as_by_the_scheduler(policy: str, slots: int) -> None:
    """Rows in the plan's order, slots, pairs, copies and their order, residency and counts after every token.

    The thread is one of C, and the interpreter's lock is held all the time: nothing of Python has a part in a token.
    Some copies arrive between tokens, some fall behind.
    """
    mine, other, random = made(policy, slots), made(policy, slots), np.random.default_rng(3)
    token, link, asked = Token(mine), PlainLink(other), 0
    for s in range(STEPS):
        tokens, phase = (1, Phase.DECODE) if s % 5 else (1 + s % MOST_TOKENS, Phase.VERIFY if s else Phase.PREFILL)
        ids_TLK, weights_TLK = routing(random, tokens)
        served = int(random.integers(0, 6))
        link.serve(sum(serve(token.server) for _ in range(served)))
        token.ask(ids_TLK, weights_TLK, phase, s % 10 == 0)
        assert run_in_c_thread(token.function) == 0
        for layer in range(SHAPE.num_layers):
            ids_TK, weights_TK = ids_TLK[:, layer], weights_TLK[:, layer]
            tokens_E = np.bincount(ids_TK.ravel(), minlength=SHAPE.num_experts)
            demand = Demand(s, layer, phase, tokens_E, tokens, None, s % 10 == 0)
            assert token.answer(layer) == planned(other, link, demand, ids_TK, weights_TK), (s, layer)
        for section in ("state_F", "slot_F", "seen_F", "counts", "statuses"):
            assert np.array_equal(getattr(mine.board, section), getattr(other.board, section)), section
        assert mine.board.at[3:8].tolist() == other.board.at[3:8].tolist()
        asked += mine.stats.active
        mine.residency.check()
    assert asked
    assert bool(mine.stats.demanded_fetches + mine.stats.prefetches) == bool(slots)


def serve(server: CopyServer) -> bool:
    """One copy, if any waits."""
    taken = server.take()
    if taken is not None:
        server.end(taken[0])
    return taken is not None


def test_what_is_demanded_is_copied_first() -> None:
    """The server takes copies as the step has them in line, whatever was posted first."""
    scheduler, random, order = made("hetsched", 16), np.random.default_rng(5), 0
    token = Token(scheduler)
    queue = token.step.queue
    for s in range(STEPS):
        token.ask(*routing(random, 1), Phase.DECODE, s == 0)
        assert token.function() == 0
        for _ in range(2):
            line, taken = queue.line_S[: queue.count_1[0]].tolist(), token.server.take()
            if taken is not None:
                assert taken[0] == line[0]
                assert taken[1] == queue.expert_S[taken[0]]
                token.server.end(taken[0])
                order += len(line) > 1
            token.step.ahead.calls[0][0](*token.step.ahead.calls[0][1])  # the step takes note
    assert order


@pytest.mark.parametrize("seed", range(4))
def test_the_line_of_copies_is_kept_by_plain_rules(seed: int) -> None:
    """Posted, demanded while under way, arrived: in any order, what the step is told of the link is the same."""
    scheduler, random, wanted = made("static-frequency", 10), np.random.default_rng(seed), 0
    board, queue, link = scheduler.board, new_queue(10), PlainLink(scheduler)
    board.slot_F[:10] = np.arange(10)  # who is where does not matter here
    for _ in range(150):
        under_way = [expert.expert for expert, _ in link.line]
        told, act = link.state(), random.integers(3)
        note_link(board, queue, True)
        assert board.now[LINK_FREE_S] == pytest.approx(told.free_s, abs=1e-12)
        assert board.arrived_F[: board.at[ARRIVED]].tolist() == [expert.expert for expert in told.arrived]
        assert board.flying_F[: board.at[FLYING]].tolist() == under_way
        assert board.left_s_F[: board.at[FLYING]] == pytest.approx([s for _, s in told.in_flight], abs=1e-12)
        if act == 0 and under_way:
            f = int(random.choice(under_way))
            link.want(ExpertId(0, f))
            want(queue, f)
            wanted += under_way.index(f) > 0
        elif act == 1 and len(under_way) < 10:
            f, urgent = next(f for f in random.permutation(10).tolist() if f not in under_way), bool(random.integers(2))
            link.add(ExpertId(0, f), urgent)
            ask_for(board, queue, f, urgent)
        else:
            queue.state_S[under_way[:1]] = DONE
            link.serve(1)
    assert wanted


def test_a_copy_that_failed_gives_its_slot_back() -> None:
    scheduler, random, failed = made("on-demand-lru", 14), np.random.default_rng(6), 0
    token = Token(scheduler)
    for s in range(STEPS):
        token.ask(*routing(random, 1), Phase.DECODE, s == 0)
        assert token.function() == 0
        while (taken := token.server.take()) is not None:
            token.server.end(taken[0], arrived=s % 2 == 0)
            failed += s % 2
        scheduler.residency.check()
    assert failed
    assert token.function() == 0  # takes note of the failures
    while serve(token.server):
        pass
    token.step.ahead()
    scheduler.residency.check()
    assert not scheduler.residency.num_copying
    assert (token.step.queue.state_S == IDLE).all()


class Wrong(Utility):
    """Runs on the GPU what is not there."""

    name = "wrong"

    def kernels(self) -> Any:
        from hetsched.board import ACTIVE
        from hetsched.board.rows import run
        from hetsched.jit import compiled_lean

        @compiled_lean
        def plan(board: Any, seconds_4T: Any, own: Any) -> int:
            for i in range(board.at[ACTIVE]):
                run(board, i, 1, 0)
            return 0

        return super().kernels()._replace(name="wrong", plan=plan)


def test_a_wrong_decision_costs_a_plain_one() -> None:
    """Residents on the GPU, the rest on the CPU, and the mail says so."""
    scheduler = made(Wrong(), 12)
    token = Token(scheduler)
    token.ask(*routing(np.random.default_rng(7), 1), Phase.DECODE, True)
    assert token.function() != 0
    told_L4, rows_L5N = token.kept.told_L4, token.kept.rows_L5N
    assert told_L4[:, 3].any()
    assert told_L4[:, 0].tolist() == [SHAPE.top_k] * SHAPE.num_layers
    assert (rows_L5N[:, 1, : SHAPE.top_k] == (rows_L5N[:, 2, : SHAPE.top_k] >= 0)).all()
    scheduler.residency.check()


def test_ids_of_no_expert_are_nobodys() -> None:
    scheduler = made("static-frequency", 8)
    token = Token(scheduler)
    ids_TLK, weights_TLK = routing(np.random.default_rng(8), 1)
    ids_TLK[:, :, 1] = SHAPE.num_experts + 2
    ids_TLK[:, 1, :] = -1
    token.ask(ids_TLK, weights_TLK, Phase.DECODE, True)
    assert token.function() == 0
    assert token.kept.told_L4[:, [0, 2]].tolist() == [[2, 2], [0, 0], [2, 2], [2, 2]]


def test_policies_that_need_python_or_weights_are_refused() -> None:
    scheduler = made("static-frequency", 8)
    mail, queue = new_mail(1, 3, SHAPE.num_experts), new_queue(8)
    given = scheduler.decider.calls, scheduler.arrays, scheduler.seconds, mail, queue  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="router weights"):
        CStep(*given, weighs=True)
    asks = Utility(forecaster="eam")
    other = made(asks, 8)
    with pytest.raises(InputError, match="in Python"):
        CStep(other.decider.calls, *given[1:])  # type: ignore[attr-defined]
