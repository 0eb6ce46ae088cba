"""What a policy is told: when requests begin, what executed plans came to; and the helpers for those who write one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

import hetsched
from hetsched.board import N_LAYERS, NEW_REQUEST, S_DECISION, S_DENSE, S_HOST, S_MAKESPAN, Board
from hetsched.faults import Fault
from hetsched.jit import compiled_lean
from hetsched.machine.gallery import machine
from hetsched.policies.compiled import PolicyKernels
from hetsched.policies.idle_link import copies, room
from hetsched.policies.misses import decision
from hetsched.policies.static import CpuOnly, StaticFrequency, most_frequent
from hetsched.policies.swap_kernels import plan
from hetsched.policy import Decision, Kernelled, Setting, Traits, View
from hetsched.replay import compare
from hetsched.replay.simulator import ConstantClock, Replay, compiled_parts, simulate
from hetsched.replay.steps import steps_of
from hetsched.residency import ABSENT
from hetsched.scheduler import Scheduler
from hetsched.testing.policies import LAWS, Make, demanded
from hetsched.testing.policies import SHAPE as LAW_SHAPE
from hetsched.traces.trace import RoutingTrace
from hetsched.types import Demand, ExpertId, Fetch, FloatArray, Outcome, Phase
from tests.conftest import tiny_moe
from tests.replay.compare_made import MACHINE, geometry, random_trace


class Thrifty:
    """As somebody outside would write one, with what hetsched/policy.py names: about the rule of strata.

    The most missed expert of a layer is fetched in the place of the least used one when that was measured to be
    shorter, other layers' are prefetched while copies have taken less than a quarter of the time; uses count within a
    request.
    """

    name = "thrifty"
    traits = Traits(family="dynamic placement")

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        shape = setting.geometry
        self.setting = setting
        self.uses_F: FloatArray = np.zeros(shape.num_layers * shape.num_experts)
        self.so_far_s = self.copies_s = 0.0
        self.longer_s = setting.cost.copy_s() - float(setting.cost.cpu_s(1))  # inf where there is no GPU
        return most_frequent(setting)

    def plan(self, demand: Demand, view: View) -> Decision:
        states, fetched = view.residency.states(demand.layer), dict[ExpertId, ExpertId | None]()
        missing = [e for e in demand.active if states[e] == ABSENT]
        idle = view.residency.evictable(demand.layer, demand.active_N)
        if missing and len(idle) and self.longer_s < 0:
            place = ExpertId(*divmod(int(idle[np.argmin(self.uses_F[idle])]), demand.num_experts))
            fetched[ExpertId(demand.layer, missing[0])] = place
        return decision(demand, view, self.setting, fetched, "was shorter of late")

    def observe(self, demand: Demand) -> None:
        if demand.new_request and demand.layer == 0:
            self.uses_F *= 0.5
        first = demand.layer * demand.num_experts
        self.uses_F[[first + e for e in demand.active]] += demand.tokens

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        space, copy_s = room(demand, view, 1), self.setting.cost.copy_s()
        if space <= 0 or self.copies_s + copy_s > 0.25 * self.so_far_s:
            return ()
        wanted = np.argsort(-self.uses_F, kind="stable")[:4].tolist()
        found = copies(wanted, demand, view, self.uses_F, space, "used often", below=float(self.uses_F[wanted[-1]]))
        self.copies_s += copy_s * len(found)
        return found

    def executed(self, outcome: Outcome) -> None:
        self.so_far_s += outcome.layer_s
        self.longer_s += 0.1 * (outcome.stall_s - outcome.cpu_s - self.longer_s)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_example_keeps_the_laws(law: Callable[[Make], None]) -> None:
    law(Thrifty)


def test_the_example_is_compared_like_any_other() -> None:
    """It moves experts within its quarter of the time, and is ranked beside the others."""
    named = {"thrifty": Thrifty, "static": "static-frequency"}
    compared = compare(
        random_trace(), geometry(), hardware=[MACHINE], gpu_fractions=[0.3], strategies=named, decision_s=1e-5
    )
    assert not compared.failures
    row = next(row for row in compared.rows if row.strategy == "thrifty")
    assert row.bytes_per_token > 0
    assert 0 < row.link_utilisation < 0.5


class Told(CpuOnly):
    """Notes all that it is told; made a policy in Python by having a method of its own."""

    name = "told"

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        self.outcomes: list[Outcome] = []
        self.begun: list[tuple[int, int, bool]] = []
        return super().start(setting)

    def observe(self, demand: Demand) -> None:
        self.begun.append((demand.step, demand.layer, demand.new_request))

    def executed(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def replayed(policy: Any, trace: RoutingTrace, verify: int = 0, **options: Any) -> tuple[Scheduler, Replay]:
    """A policy on a small model, decisions charged 10 µs and each layer 5 µs for the engine."""
    shape = geometry()
    made = Scheduler(shape, machine(MACHINE), 6 * shape.expert_bytes, policy=policy, clock=ConstantClock(1e-5))
    return made, simulate(trace, steps_of(trace, verify=verify, **options), made, host_s=5e-6)


def test_a_replay_tells_what_plans_came_to() -> None:
    """Every layer once, in order; their seconds are the run's."""
    policy = Told()
    made, found = replayed(policy, random_trace())
    assert len(policy.outcomes) == made.stats.layers == 120 * 3
    assert [(o.plan.demand.step, o.plan.demand.layer) for o in policy.outcomes[:4]] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert sum(o.layer_s for o in policy.outcomes) == pytest.approx(made.stats.total_s)
    assert sum(o.layer_s for o in policy.outcomes) == pytest.approx(float(found.step_s_S.sum()))
    assert sum(o.plan.predicted_s for o in policy.outcomes) == pytest.approx(made.stats.predicted_s)
    assert all(o.makespan_s > 0 and o.cpu_s > 0 for o in policy.outcomes)


@pytest.mark.parametrize("verify", [0, 3])
def test_a_replay_tells_where_requests_begin(verify: int) -> None:
    """Six sequences of twenty tokens: the first step of each, in all layers, however many tokens a step has."""
    policy = Told()
    replayed(policy, random_trace(), verify)
    steps_each = 20 // (verify + 1)
    assert {step for step, _, new in policy.begun if new} == {i * steps_each for i in range(6)}
    assert sum(new for *_, new in policy.begun) == 6 * 3


class Kernels(Kernelled):
    """The same in kernels: steps that begin requests, and the board's seconds when each layer is learned."""

    name = "told-kernels"

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        self.noted_3N = np.zeros((3, 10_000))
        return ()

    def kernels(self) -> PolicyKernels:
        return PolicyKernels("told-kernels", (__name__,), plan, note=note, own=(self.noted_3N,))


@compiled_lean
def note(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    (noted_3N,) = own
    at = int(noted_3N[2, 0])
    noted_3N[0, at] = board.at[NEW_REQUEST]
    noted_3N[1, at] = board.sums_s[S_DENSE] + board.sums_s[S_HOST] + board.sums_s[S_DECISION] + board.sums_s[S_MAKESPAN]
    noted_3N[2, 0] += 1


class InPython(Scheduler):
    """Replayed layer by layer: simulate() takes the compiled loop for a Scheduler alone."""


def test_kernels_find_it_on_the_board() -> None:
    """In the compiled loop and layer by layer alike: the seconds of the layers before, and requests."""
    trace, shape, found = random_trace(), geometry(), []
    for kind in (Scheduler, InPython):
        policy = Kernels()
        made = kind(shape, machine(MACHINE), 6 * shape.expert_bytes, policy=policy, clock=ConstantClock(1e-5))
        assert (compiled_parts(made) is not None) == (kind is Scheduler)
        simulate(trace, steps_of(trace), made, host_s=5e-6)
        found.append(policy.noted_3N[:, : made.board.counts[N_LAYERS]])
    told = Told()
    replayed(told, trace)
    assert found[0][0].tolist() == found[1][0].tolist() == [float(new) for *_, new in told.begun]
    before_s = np.cumsum([0.0, *(outcome.layer_s for outcome in told.outcomes)])[:-1]
    assert found[0][1] == pytest.approx(found[1][1])
    assert found[0][1] == pytest.approx(before_s)


class Forgetful(StaticFrequency):
    """Fails when it is told something."""

    name = "forgetful"

    def executed(self, outcome: Outcome) -> None:
        raise RuntimeError("told too much")


def test_a_policy_that_fails_when_told_is_a_fault_that_costs_nothing() -> None:
    """Raised in a replay; in an engine counted, and the run goes on."""
    with pytest.raises(RuntimeError, match="told too much"):
        replayed(Forgetful(), random_trace())
    trace = demanded(4, 0)
    made = Scheduler(
        LAW_SHAPE, machine(MACHINE), 9 * LAW_SHAPE.expert_bytes, policy=Forgetful(), degrade=True, history=trace
    )
    tokens_E = np.bincount([1, 2], minlength=LAW_SHAPE.num_experts)
    plan = made.step(made.demand(0, tokens_E, 1, Phase.DECODE))
    made.observe(Outcome(plan, 1e-4, 1e-3))
    assert made.stats.faults == {Fault.LEARNING.value: 1}
    assert made.stats.layers == 1


def test_a_loop_of_ones_own_says_where_requests_begin() -> None:
    """Without a word only the first step begins one."""
    made = Scheduler(LAW_SHAPE, machine(MACHINE), 0, policy="cpu-only")
    told = []
    for step in range(4):
        if step == 2:
            made.begin_step(new_request=True)
        for layer in range(2):
            demand = made.demand(layer, np.bincount([3], minlength=LAW_SHAPE.num_experts), 1, Phase.DECODE)
            told.append((step, layer, demand.new_request))
    assert [(step, layer) for step, layer, new in told if new] == [(0, 0), (0, 1), (2, 0), (2, 1)]


def test_an_engine_tells_both() -> None:
    """Two generations of four tokens: prompt and three decode steps each, told layer by layer."""
    model, policy = tiny_moe(), Told()
    greedy = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with hetsched.attach(model, hardware=MACHINE, gpu_memory="25%", time_scale=1.0, policy=policy) as handle:
        for _ in range(2):
            model.generate(torch.arange(3, 15)[None], **greedy)
        stats = handle.stats()
    layers = 1 + max(layer for _, layer, _ in policy.begun)
    assert [new for _, layer, new in policy.begun if layer == 0] == [True, *[False] * 3] * 2
    assert len(policy.outcomes) == len(policy.begun) == 8 * layers
    told_s = sum(outcome.layer_s for outcome in policy.outcomes)
    assert 0 < told_s <= stats["total_s"] * (1 + 1e-9)
