"""Plug-ins that fail at deciding: what the scheduler does in their place, and what it never does."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from hetsched.bench import faults as bench
from hetsched.bench.fault_cases import second_attach
from hetsched.bench.fault_ground import Ground
from hetsched.cli import main
from hetsched.dispatch.guard import LATE_IN_A_ROW, REST, SOLVER_BUDGET_S, SolverGuard
from hetsched.dispatch.solver import Fallback, Solution, Status
from hetsched.errors import InputError
from hetsched.faults import Fault
from hetsched.geometry import MoEGeometry
from hetsched.machine.gallery import machine
from hetsched.residency import RESIDENT, Residency
from hetsched.scheduler import WARN_AFTER, Scheduler
from hetsched.testing.broken_plugins import NONSENSE, PLAN_NONSENSE, PLAN_RAISES, BrokenPolicy
from hetsched.testing.dispatch_problems import degenerate_problems
from hetsched.testing.faults import Dice, InjectedFault
from hetsched.types import ExpertId, Fetch, Lane, Outcome, Phase, Plan
from tests.documents import document_of

SHAPE = MoEGeometry("shape", num_layers=3, num_experts=8, top_k=3, hidden=512, ffn=1024)


def scheduler(policy: Any, degrade: bool = True) -> Scheduler:
    return Scheduler(SHAPE, machine("rtx-4060-laptop-8gb"), 9 * SHAPE.expert_bytes, policy=policy, degrade=degrade)


def asked(made: Scheduler, layer: int, *experts: int) -> Plan:
    tokens_E = np.bincount(experts, minlength=SHAPE.num_experts)
    plan = made.step(made.demand(layer, tokens_E, 1, Phase.DECODE))
    made.prefetch()
    made.residency.check()
    made.observe(Outcome(plan, 0.0, plan.predicted_s))
    return plan


def test_a_plain_decision_is_residents_on_the_gpu_and_the_rest_on_the_cpu() -> None:
    """Whatever way the contract is broken; a decision that breaks it has moved nothing."""
    dice = Dice({PLAN_NONSENSE: 1.0})
    made = scheduler(BrokenPolicy("static-frequency", dice))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for turn in range(3 * len(NONSENSE)):
            before_LE = made.residency.state_LE.copy()
            layer = turn % SHAPE.num_layers
            plan = asked(made, layer, 0, 3, 5)
            assert not plan.fetches
            assert sorted(run.expert.expert for run in plan.runs) == [0, 3, 5]
            for run in plan.runs:
                assert (run.lane is Lane.GPU) == (before_LE[run.expert] == RESIDENT)
            assert (made.residency.state_LE == before_LE).all()
            assert not plan.evicts
    assert made.stats.faults == {Fault.POLICY.value: 3 * len(NONSENSE)}
    assert made.stats.evictions == 0


def test_a_policy_that_keeps_failing_is_warned_of_once() -> None:
    dice = Dice({PLAN_RAISES: 1.0})
    made = scheduler(BrokenPolicy("hetsched", dice))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for step in range(2 * WARN_AFTER):
            asked(made, step % 3, 1, 2)
    (only,) = warned
    assert issubclass(only.category, RuntimeWarning)
    assert "failed 8 layers in a row" in str(only.message)
    assert "InjectedFault" in str(only.message)


def test_a_policy_that_fails_now_and_then_is_not_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    made = scheduler(BrokenPolicy("hetsched", Dice({PLAN_RAISES: 0.5}, seed=3)))
    for step in range(30):
        asked(made, step % 3, 1, 2)
    assert made.stats.faults[Fault.POLICY.value] > WARN_AFTER
    assert not recwarn.list


def test_a_replay_is_told_what_a_policy_raises() -> None:
    made = scheduler(BrokenPolicy("hetsched", Dice({PLAN_RAISES: 1.0})), degrade=False)
    with pytest.raises(InjectedFault):
        asked(made, 0, 1)


def test_what_the_user_did_wrong_is_said_and_not_counted() -> None:
    class Particular:
        name = "particular"

        def start(self, machine: Any) -> Any:
            return ()

        def plan(self, demand: Any, view: Any) -> Any:
            raise InputError("there is no such thing")

        def observe(self, demand: Any) -> None:
            """Never called."""

        def prefetch(self, demand: Any, view: Any) -> Any:
            return ()

    made = scheduler(Particular())
    with pytest.raises(InputError, match="no such thing"):
        asked(made, 0, 1)


def test_a_lost_copy_is_absent_and_its_slot_free() -> None:
    made = scheduler("on-demand-lru")
    expert = ExpertId(1, 4)
    free = made.residency.free_slots
    made.residency.apply(Fetch(expert, None if free else made.residency.residents()[0], True, "test"))
    made.lose(expert, "test")
    assert made.residency.state(expert).name == "ABSENT"
    assert made.residency.free_slots == max(free, 1)
    made.residency.check()
    made.lose(expert, "told twice")
    made.residency.check()


def test_counts_follow_states_after_a_change_that_was_cut_in_two() -> None:
    residency = Residency(1, 4, 2)
    residency.apply(Fetch(ExpertId(0, 1), None, False, "test"))
    residency._slot_LE[0, 2], residency._state_LE[0, 2] = 1, 1  # a fetch that was interrupted before it was counted
    residency._state_LE[0, 3] = 1  # and one before it had a slot
    residency.recount()
    residency.check()
    assert (residency.free_slots, residency.num_copying) == (0, 2)
    assert residency.state(ExpertId(0, 3)).name == "ABSENT"


class Slow:
    """A solver that notes how often it was asked, and within what time."""

    name = "slow"

    def __init__(self) -> None:
        self.limits_s: list[float | None] = []

    def solve(self, problem: Any, *, time_limit_s: float | None = None) -> Solution:
        self.limits_s.append(time_limit_s)
        return Solution(Status.OPTIMAL, problem.incumbent(), problem.incumbent_s, problem.incumbent_s)


def test_a_solver_that_is_always_late_rests() -> None:
    """Its answers are dropped; after three it is not asked for 64 decisions, then again."""
    solver, told = Slow(), list[tuple[Fault, str]]()
    late = SolverGuard(solver, lambda fault, reason: told.append((fault, reason)), budget_s=-1.0)
    problem = degenerate_problems()["all missing"]
    found = [late.solve(problem) for _ in range(LATE_IN_A_ROW + REST)]
    assert {one.status for one in found} == {Status.INCUMBENT}
    reasons = [one.fallback for one in found]
    assert reasons == [Fallback.LATE] * LATE_IN_A_ROW + [Fallback.RESTING] * REST
    assert len(solver.limits_s) == len(told) == LATE_IN_A_ROW
    assert {fault for fault, _ in told} == {Fault.SOLVER_LATE}
    late.solve(problem)
    assert len(solver.limits_s) == LATE_IN_A_ROW + 1


def test_a_solver_is_told_its_budget_or_less() -> None:
    solver = Slow()
    budgeted = SolverGuard(solver, lambda fault, reason: None, budget_s=5.0)
    problem = degenerate_problems()["all missing"]
    assert budgeted.solve(problem).status is Status.OPTIMAL
    budgeted.solve(problem, time_limit_s=1.0)
    budgeted.solve(problem, time_limit_s=9.0)
    assert solver.limits_s == [5.0, 1.0, 5.0]


def test_a_policy_gets_one_guard_around_the_solver() -> None:
    """With a budget that tells faults in an engine; in a replay without, and it judges all the same."""

    class Liar(Slow):
        def solve(self, problem: Any, *, time_limit_s: float | None = None) -> Solution:
            super().solve(problem, time_limit_s=time_limit_s)
            raise InjectedFault("no answer")

    for degrade, limit_s in ((True, SOLVER_BUDGET_S), (False, None)):
        liar = Liar()
        hardware, size = machine("rtx-4060-laptop-8gb"), 9 * SHAPE.expert_bytes
        made = Scheduler(SHAPE, hardware, size, policy="hetsched", solver=liar, degrade=degrade)
        tokens_E = np.full(SHAPE.num_experts, 3)
        plan = made.step(made.demand(0, tokens_E, 8, Phase.PREFILL))
        assert plan.solver_status == Fallback.RAISED.value
        assert liar.limits_s == [limit_s]
        assert made.stats.faults == ({Fault.SOLVER_RAISED.value: 1} if degrade else {})


def test_the_benchmark_prints_one_document(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one fault in place of all of them, which take a minute."""
    monkeypatch.setattr(bench, "Ground", lambda: ground)
    monkeypatch.setattr(bench, "cases", lambda ground: [("one", lambda: second_attach(ground))])
    assert main(["bench", "--faults", "--steps", "6", "--json"]) == 0
    document = document_of(capsys.readouterr().out)
    assert document["schema"] == "hetsched-faults/1"
    assert [set(row) for row in document["rows"]] == [
        {"fault", "injected", "survived", "tokens_lost", "outcome"} for _ in range(2)
    ]
    assert main(["bench", "--faults", "--steps", "1"]) == 0
    assert "second attach" in capsys.readouterr().out
