"""A replay says what the emulated engine does: the same demands, decisions, copies and seconds, to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import hetsched
from hetsched.accelerators.emulated.device import EmulatedAccelerator
from hetsched.engine.engine import Engine
from hetsched.engine.layer_work import LayerInput, demand_of
from hetsched.geometry import MoEGeometry, from_config
from hetsched.integrations.expert_modules import expert_modules
from hetsched.integrations.recording import recording
from hetsched.machine.drift import Drift, TrueMachine
from hetsched.machine.gallery import machine
from hetsched.machine.profile import HardwareProfile
from hetsched.policies.hybrimoe import HybriMoe
from hetsched.policy import Decision, Setting, View
from hetsched.replay.simulator import ConstantClock, simulate
from hetsched.replay.steps import steps_of
from hetsched.residency import ABSENT, RESIDENT
from hetsched.scheduler import Scheduler
from hetsched.traces.trace import RoutingTrace
from hetsched.types import Demand, ExpertId, Fetch, Lane, Phase, Run
from tests.conftest import tiny_moe
from tests.replay.flat_cost import random_trace

# Experts of 24 MB: a copy takes 2 ms and 6 chunks, an expert on the CPU 0.5 ms.
TIMES = MoEGeometry("times", 3, 8, 2, hidden=2000, ffn=2000, dense_params=4_000_000)
HOST_S = 7e-5  # of each layer, for the engine itself
LAPTOP = replace(machine("rtx-4060-laptop-8gb"), cpu_slowdown=1.0, h2d_slowdown=1.0)  # emulation knows no contention


class Restless:
    """Fetches the first miss, runs what is in flight on the GPU, prefetches what the next layers asked for last."""

    name = "restless"

    def start(self, machine: Setting) -> list[ExpertId]:
        self._last: dict[int, list[int]] = {}
        return [ExpertId(layer, e) for e in range(3) for layer in range(3)]

    def plan(self, demand: Demand, view: View) -> Decision:
        states, layer = view.residency.states(demand.layer), demand.layer
        absent = [e for e in demand.active if states[e] == ABSENT]
        idle = view.residency.evictable(layer, demand.active_N).tolist()
        fetched = absent[: len(idle[:1])]
        fetches = [Fetch(ExpertId(layer, e), ExpertId(*divmod(idle[0], 8)), False, "missed") for e in fetched]
        order = sorted(demand.active, key=lambda e: (states[e] != RESIDENT, states[e] == ABSENT))
        lanes = [Lane.CPU if e in absent and e not in fetched else Lane.GPU for e in order]
        runs = [Run(ExpertId(layer, e), 1, lane, "asked") for e, lane in zip(order, lanes, strict=True)]
        return Decision(tuple(runs), tuple(fetches))

    def observe(self, demand: Demand) -> None:
        self._last[demand.layer] = demand.active

    def prefetch(self, demand: Demand, view: View) -> list[Fetch]:
        idle = [ExpertId(*divmod(f, 8)) for f in view.residency.evictable(demand.layer, demand.active_N)]
        fetches = []
        for ahead in (1, 2):
            layer = (demand.layer + ahead) % 3
            states = view.residency.states(layer)
            absent = [e for e in self._last.get(layer, []) if states[e] == ABSENT]
            if len(view.link.in_flight) < 3 and len(idle) > ahead and absent:
                fetches.append(Fetch(ExpertId(layer, absent[0]), idle[-ahead], True, "asked for last time"))
        return fetches


def scheduler(model: Any, policy: Any, trace: RoutingTrace, hardware: HardwareProfile = LAPTOP) -> Scheduler:
    """One for eight slots, each decision charged 0.1 ms."""
    geometry = from_config(model.config, dtype="fp32")
    return Scheduler(
        geometry,
        hardware,
        8 * geometry.expert_bytes,
        policy=policy,
        timed_as=TIMES,
        clock=ConstantClock(1e-4),
        history=trace,
    )


def executed(
    model: Any,
    policy: Any,
    trace: RoutingTrace,
    weights: Any = None,
    hardware: HardwareProfile = LAPTOP,
    drifts: Sequence[Drift] = (),
    time_scale: float = 12.0,
) -> Scheduler:
    """The trace's demands, through an engine on the emulated machine; `weights` [T, L, K] of the router, else all 1."""
    made = scheduler(model, policy, trace, hardware)
    engine = Engine(made, EmulatedAccelerator(hardware, 1 << 24, time_scale=time_scale, drifts=drifts))
    engine.host.charge_s = HOST_S
    modules = expert_modules(model)
    for layer, module in enumerate(modules):
        engine.adopt(layer, module)
    ids_TLK, weights_TLK = torch.from_numpy(trace.experts_TLK.astype(np.int64)), torch.ones(trace.experts_TLK.shape)
    if weights is not None:
        weights_TLK = torch.from_numpy(weights)
    try:
        steps = steps_of(trace)
        for begin, end, phase in zip(steps.begin_S, steps.end_S, steps.phase_S, strict=True):
            engine.begin_step(Phase(phase))
            for layer, module in enumerate(modules):
                chosen = ids_TLK[begin:end, layer], weights_TLK[begin:end, layer]
                engine.forward(LayerInput(layer, module, torch.ones(end - begin, 32), *chosen))
            engine.end_step()
    finally:
        engine.close()
    return made


@pytest.mark.parametrize("policy", ["static-frequency", "on-demand-lru", "hetsched", Restless])
def test_engine_and_replay_agree(policy: Any) -> None:
    """Every layer's makespan is the same, with copies that wait, go on over layers, are interrupted and promoted."""
    model = tiny_moe()
    trace = random_trace(np.random.default_rng(4), 10, 3, 8, 2)
    replayed = scheduler(model, policy, trace)
    simulate(trace, steps_of(trace), replayed, host_s=HOST_S)
    ran = executed(model, policy, trace).stats.as_dict()
    expected = replayed.stats.as_dict()
    for key in ("layers", "hits", "late", "demanded_fetches", "prefetches", "wasted_prefetches", "evictions"):
        assert ran[key] == expected[key], key
    for key in ("makespan_s", "dense_s", "decision_s", "host_s", "gpu_s", "stall_s", "total_s", "predicted_s"):
        assert ran[key] == pytest.approx(expected[key], abs=1e-9), key
    if policy is Restless:
        assert min(expected["late"], expected["demanded_fetches"], expected["prefetches"]) > 3


@pytest.mark.parametrize("drift", [Drift(20, gpu=5.0, cpu=2.0), Drift(20, link=4.0), Drift(0, cpu=10.0)], ids=str)
def test_an_engine_follows_a_machine_that_drifts_as_a_replay_does(drift: Drift) -> None:
    """Its seconds, really elapsed and measured by the events of its lanes, are learned within 50 steps."""
    model, drifts = tiny_moe(), (drift,)
    trace = random_trace(np.random.default_rng(4), 70, 3, 8, 2)
    ran = executed(model, Restless, trace, drifts=drifts, time_scale=1.0)
    replayed = scheduler(model, Restless, trace)
    simulate(trace, steps_of(trace), replayed, host_s=HOST_S, true_hardware=TrueMachine(LAPTOP, drifts))
    true = {"gpu": drift.gpu, "dense": drift.gpu, "cpu": drift.cpu, "copy": drift.link}
    assert replayed.cost.corrections == pytest.approx(true, rel=0.1)
    # An emulated CPU lane's round trip of activations is no part of the emulated link, but of the corrected one.
    for op, factor in true.items():
        assert ran.cost.corrections[op] == pytest.approx(factor, rel=0.2 if op == "cpu" else 0.1), op
    assert ran.stats.dense_s == pytest.approx(replayed.stats.dense_s)
    predictions = ran.stats.as_dict()["predictions"]
    for op, factor in true.items():
        measured = predictions[op]
        assert measured["ratio"] > 1.05 if factor > 1 else measured["ratio"] == pytest.approx(1.0, abs=0.2)


class Noted(HybriMoe):
    """hybrimoe, and what it decided, with the weights that it was told."""

    def start(self, machine: Setting) -> Sequence[ExpertId]:
        self.decided: list[Any] = []
        self.told: list[Any] = []
        return super().start(machine)

    def plan(self, demand: Demand, view: View) -> Decision:
        decision = super().plan(demand, view)
        self.told.append(None if demand.weights_E is None else demand.weights_E.tolist())
        self.decided.append((decision.runs, decision.fetches))
        return decision

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        copies = super().prefetch(demand, view)
        self.decided.append(list(copies))
        return copies


def test_what_a_model_tells_hybrimoe_its_recorded_trace_tells_it_too() -> None:
    """The weights of a real router, in prefill and decode, go through the model, and as they are recorded."""
    model, ran, replayed = tiny_moe(), Noted(), Noted()
    ids = torch.arange(6)[None]
    with hetsched.attach(model, hardware="rtx-4060-laptop-8gb", gpu_memory="25%", time_scale=1.0, policy=ran):
        with recording(model) as recorder:
            model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
        told = ran.told
    passes = recorder.take()
    tokens_S = [len(one.experts_TLK) for one in passes]
    trace = RoutingTrace(
        np.concatenate([one.experts_TLK for one in passes]),
        np.zeros(sum(tokens_S), np.int32),
        np.repeat(np.array([one.phase for one in passes], np.uint8), tokens_S),
        8,
        np.concatenate([one.weights_TLK for one in passes]),
        step_T=np.repeat(np.arange(len(passes), dtype=np.int32), tokens_S),
    )
    simulate(trace, steps_of(trace), scheduler(model, replayed, trace), host_s=HOST_S)
    assert tokens_S == [6, 1, 1, 1]
    assert told == replayed.told
    assert all(sum(weights) > 0 for weights in told)


def test_router_weights_are_added_by_expert() -> None:
    """An id chosen twice counts twice, one of no expert here not at all; for policies that declare it, no others."""
    model = tiny_moe()
    module = expert_modules(model)[0]
    ids_TK, weights_TK = torch.tensor([[1, 1], [3, 8]]), torch.tensor([[0.5, 0.25], [1.0, 2.0]], dtype=torch.bfloat16)
    for rows, expected in ((2, [0, 0.75, 0, 1, 0, 0, 0, 0]), (1, [0, 0.75, 0, 0, 0, 0, 0, 0])):
        work = LayerInput(0, module, torch.ones(rows, 32), ids_TK[:rows], weights_TK[:rows])
        trace = random_trace(np.random.default_rng(4), 2, 3, 8, 2)
        made = scheduler(model, "hybrimoe", trace)
        found = demand_of(work, made, None).weights_E
        assert found is not None
        assert found.tolist() == expected
        assert demand_of(work, scheduler(model, "hetsched", trace), None).weights_E is None


def test_hybrimoe_decides_in_a_model_as_in_a_replay_of_its_trace() -> None:
    """Router weights reach it on both ways, of one token and of several, rounded as a trace holds them."""
    model, random = tiny_moe(), np.random.default_rng(5)
    routed = random_trace(random, 60, 3, 8, 2)
    weights_TLK = (random.random(routed.experts_TLK.shape) ** 4).astype(np.float32)
    step_T = np.concatenate([np.repeat(np.arange(4), 5), np.arange(4, 44)]).astype(np.int32)
    phase_T = np.where(step_T < 4, Phase.VERIFY, Phase.DECODE).astype(np.uint8)
    trace = replace(routed, weights_TLK=weights_TLK.astype(np.float16), step_T=step_T, phase_T=phase_T)
    replayed, ran, without = (Noted(alpha=0.3) for _ in range(3))
    assert LAPTOP.h2d is not None
    quick = replace(LAPTOP, h2d=replace(LAPTOP.h2d, bytes_per_s=8 * LAPTOP.h2d.bytes_per_s))
    simulate(trace, steps_of(trace), scheduler(model, replayed, trace, quick), host_s=HOST_S)
    stats = executed(model, ran, trace, weights_TLK, quick).stats
    assert ran.told == replayed.told
    assert ran.decided == replayed.decided
    simulate(replace(trace, weights_TLK=None), steps_of(trace), scheduler(model, without, trace, quick), host_s=HOST_S)
    assert min(stats.demanded_fetches, stats.prefetches) > 3
    assert set(without.told) == {None}
    assert without.decided != replayed.decided  # the weights matter here
