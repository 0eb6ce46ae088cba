"""RunStats: what a run came to, from plans and outcomes; the same for every executor."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .faults import Fault
from .residency import COPYING, RESIDENT
from .types import Demand, ExpertId, Fetch, Lane, Outcome, Phase, Plan


@dataclass
class RunStats:
    """Sums over the layers of a run, in seconds and bytes; rates are properties.

    A hit is an active expert that had wholly arrived when the router asked; a late prefetch was on its way.
    `decision_s` is on the critical path; `overlapped_s`, for learning and choosing prefetches, is spent while the lanes
    work and lengthens a layer only where it outlasts them. `host_s` is what the engine itself takes, decisions apart;
    on a real machine the wall's seconds contain it, which `host_inside_s` says. `faults` counts what was survived, by
    name of the fault.
    """

    expert_bytes: int
    layers: int = 0
    steps: int = 0
    tokens: int = 0
    decode_tokens: int = 0
    decode_s: float = 0.0
    active: int = 0
    hits: int = 0
    late: int = 0
    demanded_fetches: int = 0
    prefetches: int = 0
    wasted_prefetches: int = 0
    evictions: int = 0
    dense_s: float = 0.0
    decision_s: float = 0.0
    overlapped_s: float = 0.0
    host_s: float = 0.0
    host_inside_s: float = 0.0
    makespan_s: float = 0.0
    predicted_s: float = 0.0
    gpu_s: float = 0.0
    cpu_s: float = 0.0
    link_s: float = 0.0
    stall_s: float = 0.0
    solver_status: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    last_fault: dict[str, str] = field(default_factory=dict)
    _last_step: int = -1
    _unused: set[ExpertId] = field(default_factory=set)

    def record_demand(self, demand: Demand, states: list[int]) -> None:
        """Count hits before anything moves; `states`: the layer's residency at demand."""
        self.active += len(demand.active)
        for e in demand.active:
            if states[e] >= RESIDENT:
                self.hits += 1
            elif states[e] == COPYING:
                self.late += 1
        if self._unused:
            self._unused.difference_update([(demand.layer, e) for e in demand.active])

    def record_plan(self, plan: Plan) -> None:
        """Count demanded copies and what they displaced."""
        for fetch in plan.fetches:
            self.record_fetch(fetch)
        for evict in plan.evicts:
            self._evicted(evict.expert)
        if plan.solver_status:
            self.solver_status[plan.solver_status] = self.solver_status.get(plan.solver_status, 0) + 1

    def record_fetch(self, fetch: Fetch) -> None:
        """Count one copy, demanded or not, and prefetches that nobody used."""
        if fetch.prefetch:
            self.prefetches += 1
            self._unused.add(fetch.expert)
        else:
            self.demanded_fetches += 1
        if fetch.victim is not None:
            self._evicted(fetch.victim)

    def record_fault(self, fault: Fault, reason: str) -> None:
        """Count one fault that the run survived, and keep its reason until the next of its kind."""
        self.faults[fault.value] = self.faults.get(fault.value, 0) + 1
        self.last_fault[fault.value] = reason

    def record_outcome(self, outcome: Outcome) -> None:
        """Add one layer's times."""
        plan, dense_s, makespan_s, gpu_s, cpu_s, link_s, stall_s, host_s = outcome
        demand = plan.demand
        decoding = demand.phase != Phase.PREFILL
        if demand.step != self._last_step:
            self._last_step = demand.step
            self.steps += 1
            self.tokens += demand.num_tokens
            self.decode_tokens += demand.num_tokens * decoding
        self.layers += 1
        if decoding:
            self.decode_s += dense_s + host_s + plan.decision_s + makespan_s
        self.dense_s += dense_s
        self.host_s += host_s
        self.decision_s += plan.decision_s
        self.makespan_s += makespan_s
        self.predicted_s += plan.predicted_s
        self.gpu_s += gpu_s
        self.cpu_s += cpu_s
        self.link_s += link_s
        self.stall_s += stall_s

    def record_host_inside(self, seconds: float) -> None:
        """Add what the engine itself took within seconds of the wall that are counted anyway."""
        self.host_s += seconds
        self.host_inside_s += seconds

    def record_tail(self, phase: Phase, seconds: float) -> None:
        """Add what a step takes after its last layer."""
        self.dense_s += seconds
        if phase is not Phase.PREFILL:
            self.decode_s += seconds

    def _evicted(self, expert: ExpertId) -> None:
        self.evictions += 1
        if expert in self._unused:
            self._unused.discard(expert)
            self.wasted_prefetches += 1

    @property
    def total_s(self) -> float:
        """Seconds of all layers: dense part, the engine's own, decision, experts."""
        return self.dense_s + (self.host_s - self.host_inside_s) + self.decision_s + self.makespan_s

    @property
    def tokens_per_s(self) -> float:
        """Decoded tokens per second, decisions and the engine's own time counted; 0 when nothing was decoded."""
        return self.decode_tokens / self.decode_s if self.decode_s > 0 else 0.0

    @property
    def hit_rate(self) -> float:
        """Share of active experts that were wholly there at demand."""
        return self.hits / self.active if self.active else 0.0

    @property
    def bytes_moved(self) -> int:
        """Bytes of experts copied to the GPU."""
        return (self.demanded_fetches + self.prefetches) * self.expert_bytes

    def as_dict(self) -> dict[str, Any]:
        """Everything, with the rates, ready for JSON."""
        per_token = 1 / self.tokens if self.tokens else 0.0
        busy_s = self.total_s or 1.0
        return {
            **{key: value for key, value in asdict(self).items() if not key.startswith("_")},
            "total_s": self.total_s,
            "tokens_per_s": self.tokens_per_s,
            "hit_rate": self.hit_rate,
            "late_share": self.late / self.active if self.active else 0.0,
            "bytes_moved": self.bytes_moved,
            "bytes_per_token": self.bytes_moved * per_token,
            "wasted_bytes_per_token": self.wasted_prefetches * self.expert_bytes * per_token,
            "stall_s_per_token": self.stall_s * per_token,
            "decision_s_per_token": self.decision_s * per_token,
            "host_s_per_token": self.host_s * per_token,
            "utilisation": {lane.value: getattr(self, f"{lane.value}_s") / busy_s for lane in Lane},
        }
