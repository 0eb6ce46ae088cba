"""A replay says what the emulated engine does: the same demands, decisions, copies and seconds, to rounding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hetsched.accelerators.emulated import EmulatedAccelerator
from hetsched.engine.engine import Engine
from hetsched.engine.layer_work import LayerInput
from hetsched.gallery import machine
from hetsched.geometry import MoEGeometry, from_config
from hetsched.integrations.expert_modules import expert_modules
from hetsched.policy import Decision, Machine, View
from hetsched.residency import ABSENT, RESIDENT
from hetsched.scheduler import Scheduler
from hetsched.simulator import ConstantClock, simulate
from hetsched.trace import RoutingTrace
from hetsched.trace_steps import steps_of
from hetsched.types import Demand, ExpertId, Fetch, Lane, Phase, Run
from tests.conftest import tiny_moe
from tests.replay.flat_cost import random_trace

# Experts of 24 MB: a copy takes 2 ms and 6 chunks, an expert on the CPU 0.5 ms.
TIMES = MoEGeometry("times", 3, 8, 2, hidden=2000, ffn=2000, dense_params=4_000_000)
LAPTOP = replace(machine("rtx-4060-laptop-8gb"), cpu_slowdown=1.0, h2d_slowdown=1.0)  # emulation knows no contention


class Restless:
    """Fetches the first miss, runs what is in flight on the GPU, prefetches what the next layers asked for last."""

    name = "restless"

    def start(self, machine: Machine) -> list[ExpertId]:
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


def scheduler(model: Any, policy: Any, trace: RoutingTrace) -> Scheduler:
    """One for eight slots, each decision charged 0.1 ms."""
    geometry = from_config(model.config, dtype="fp32")
    return Scheduler(
        geometry,
        LAPTOP,
        8 * geometry.expert_bytes,
        policy=policy,
        timed_as=TIMES,
        clock=ConstantClock(1e-4),
        history=trace,
    )


def executed(model: Any, policy: Any, trace: RoutingTrace, time_scale: float = 12.0) -> Scheduler:
    """The trace's demands, through an engine on the emulated machine; the same weights for every expert and token."""
    made = scheduler(model, policy, trace)
    engine = Engine(made, EmulatedAccelerator(LAPTOP, 1 << 24, time_scale))
    modules = expert_modules(model)
    for layer, module in enumerate(modules):
        engine.adopt(layer, module)
    try:
        for ids_LK in trace.experts_TLK.astype(np.int64):
            engine.begin_step(Phase.DECODE)
            for layer, module in enumerate(modules):
                ids_TK = torch.from_numpy(ids_LK[layer][None])
                engine.forward(LayerInput(layer, module, torch.ones(1, 32), ids_TK, torch.ones(1, ids_TK.shape[1])))
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
    simulate(trace, steps_of(trace), replayed)
    ran = executed(model, policy, trace).stats.as_dict()
    expected = replayed.stats.as_dict()
    for key in ("layers", "hits", "late", "demanded_fetches", "prefetches", "wasted_prefetches", "evictions"):
        assert ran[key] == expected[key], key
    for key in ("makespan_s", "dense_s", "decision_s", "gpu_s", "stall_s", "total_s", "predicted_s"):
        assert ran[key] == pytest.approx(expected[key], abs=1e-9), key
    if policy is Restless:
        assert min(expected["late"], expected["demanded_fetches"], expected["prefetches"]) > 3
