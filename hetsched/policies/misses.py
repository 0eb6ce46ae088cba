"""Simple answers to a miss, for baselines and writers of policies: on the CPU, or fetched while there are slots."""

from __future__ import annotations

from ..cost.model import CostModel
from ..policy import Decision, Setting, View
from ..residency import RESIDENT
from ..types import Demand, ExpertId, Fetch, Lane, Run

_ONE = (1,)


def misses_on_cpu(demand: Demand, view: View, setting: Setting) -> Decision:
    """Residents on the GPU, everything else on the CPU; nothing moves."""
    if demand.num_tokens != 1:
        return decision(demand, view, setting, {})
    on_gpu, on_cpu = setting.one_token_runs
    gpu_E, cpu_E, states = on_gpu[demand.layer], on_cpu[demand.layer], view.residency.states(demand.layer)
    runs = [gpu_E[e] for e in demand.active if states[e] >= RESIDENT]
    here, cost = len(runs), setting.cost
    runs += [cpu_E[e] for e in demand.active if states[e] < RESIDENT]
    away = len(runs) - here
    gpu_end_s = cost.gpu_call_s() + here * cost.each_gpu_s(_ONE)[0] if here else 0.0
    if not away:
        return Decision(tuple(runs), predicted_s=gpu_end_s)
    cpu_end_s = cost.cpu_start_s(1) + away * cost.each_cpu_s(_ONE)[0]
    return Decision(tuple(runs), predicted_s=max(gpu_end_s, cpu_end_s))


def decision(
    demand: Demand, view: View, setting: Setting, fetched: dict[ExpertId, ExpertId | None], cause: str = "missed"
) -> Decision:
    """Residents on the GPU, `fetched` on the GPU after their copy, in order, the rest on the CPU.

    `fetched`: missing experts of the layer, each with the resident whose slot it takes (None: a free slot), in the
    order of their copies; a victim must not be active in the layer. `cause` is told of each. The makespan expected is
    that of these lanes, so that nobody has to add it up.
    """
    layer, states = demand.layer, view.residency.states(demand.layer)
    here: list[Run] = []
    cpu: list[Run] = []
    on_gpu_n, missed_n = [], []
    for e, tokens in zip(demand.active, demand.tokens, strict=True):
        expert = ExpertId(layer, e)
        if states[e] >= RESIDENT:
            here.append(Run(expert, tokens, Lane.GPU, "resident"))
            on_gpu_n.append(tokens)
        elif expert not in fetched:
            cpu.append(Run(expert, tokens, Lane.CPU, "missed"))
            missed_n.append(tokens)
    fetches = tuple(Fetch(expert, victim, prefetch=False, cause=cause) for expert, victim in fetched.items())
    fetched_n = [demand.tokens_of(expert.expert) for expert in fetched]
    here += [Run(expert, n, Lane.GPU, "fetched") for expert, n in zip(fetched, fetched_n, strict=True)]
    predicted_s = _makespan_s(demand, view.link.free_s, setting.cost, on_gpu_n, fetched_n, missed_n)
    return Decision((*here, *cpu), fetches, predicted_s=predicted_s)


def _makespan_s(
    demand: Demand, link_free_s: float, cost: CostModel, on_gpu_n: list[int], fetched_n: list[int], missed_n: list[int]
) -> float:
    """When the last lane ends: GPU residents, then fetches in order as they arrive; beside it the CPU."""
    gpu_end_s = cost.gpu_call_s() if on_gpu_n or fetched_n else 0.0
    gpu_end_s += sum(cost.each_gpu_s(on_gpu_n)) if on_gpu_n else 0.0
    arrival_s = link_free_s
    for work_s in cost.each_gpu_s(fetched_n) if fetched_n else ():
        arrival_s += cost.copy_s()
        gpu_end_s = max(gpu_end_s, arrival_s) + work_s
    if not missed_n:
        return gpu_end_s
    return max(gpu_end_s, cost.cpu_start_s(demand.num_tokens) + sum(cost.each_cpu_s(missed_n)))
