"""Prefill: what a prompt's tokens take, batch by batch; experts that are not on the GPU are copied there or stay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby

from ..cost.model import CostModel
from ..machine.profile import HardwareProfile, Link
from .active import active_in_prompt
from .decode import dense_times
from .engine import Engine
from .placement import Placement
from .subject import Subject
from .times import Times


def prefill(
    subject: Subject, profile: HardwareProfile, engine: Engine, placement: Placement, tokens: int, batch: int = 512
) -> Times:
    """Seconds a token of a prompt of `tokens` tokens, of which at most `batch` go through the layers at once.

    Every batch reads the weights anew, and attends to those before it. Only the last token needs the head.
    """
    machine = engine.on(profile)
    whole = Times(has_gpu=profile.gpu is not None)
    for size, group in groupby(min(batch, tokens - first) for first in range(0, tokens, batch)):
        experts = _Experts(subject, machine, engine, size).of(placement)
        whole = whole.plus(experts.times(len(list(group))))
    for first in range(0, tokens, batch):
        size = min(batch, tokens - first)
        whole = whole.plus(replace(dense_times(subject, machine, engine, size, first), head_s=0.0))
    last = dense_times(subject, machine, engine, 1, tokens)
    return replace(whole, head_s=last.head_s).over(tokens)


@dataclass(frozen=True)
class _Experts:
    """The routed experts in one batch of `tokens` tokens, on a machine as the engine meets it."""

    subject: Subject
    machine: HardwareProfile
    engine: Engine
    tokens: int

    def of(self, placement: Placement) -> Times:
        """All layers together."""
        geometry, whole = self.subject.geometry, Times()
        nothing = (0,) * geometry.num_layers
        resident_L = placement.resident_L(geometry) if self.machine.gpu else nothing
        hits_L = placement.hits_L(geometry) if self.machine.gpu else nothing
        layers = list(zip(self.subject.expert_bytes_L, resident_L, hits_L, strict=True))
        for kind in dict.fromkeys(layers):
            whole = whole.plus(self._layer(*kind).times(layers.count(kind)))
        return whole

    def _layer(self, expert_bytes: int, resident: int, hit: float) -> Times:
        """One layer: experts that are there, and the missing ones by the engine's way with prompts."""
        geometry, engine = self.subject.geometry, self.engine
        ratio = expert_bytes / geometry.expert_bytes
        cost = CostModel(self.machine, geometry)
        assignments = self.tokens * geometry.top_k
        missing = active_in_prompt(geometry, self.tokens, resident)
        there = active_in_prompt(geometry, self.tokens) - missing
        gpu_s = there * ratio * float(cost.gpu_s(max(1.0, assignments * hit / there))) if resident and there else 0.0
        if not missing:
            return Times(gpu_experts_s=cost.gpu_call_s() + gpu_s)
        each = max(1.0, assignments * (1 - hit) / missing)
        on_cpu = Times(
            gpu_experts_s=cost.gpu_call_s() + gpu_s if gpu_s else 0.0,
            cpu_experts_s=cost.cpu_call_s() + missing * ratio * float(cost.cpu_s(each)),
            round_trips_s=cost.roundtrip_s(self.tokens) + engine.handover_s if cost.has_gpu else 0.0,
        )
        if self.machine.h2d is None or self.tokens < engine.stream_from:
            return engine.layer(on_cpu)
        copied = Times(
            gpu_experts_s=cost.gpu_call_s() + gpu_s + missing * ratio * float(cost.gpu_s(each)),
            link_s=self._copies_s(self.machine.h2d, missing, expert_bytes),
        )
        if engine.prompts == "both":
            return self._shared_out(on_cpu, copied)
        ways = [engine.layer(copied)] + ([engine.layer(on_cpu)] if engine.prompts == "faster" else [])
        return min(ways, key=lambda times: times.total_s)

    def _copies_s(self, link: Link, missing: float, num_bytes: int) -> float:
        """Seconds to copy the missing experts of a layer: neighbours of one matrix in one copy, as they lie in a file.

        Where m of E are missing at random, a missing one begins a run of neighbours with chance 1 - m / E.
        """
        geometry, engine = self.subject.geometry, self.engine
        runs = 1 + missing * max(0.0, 1 - missing / geometry.num_experts)
        starts_s = geometry.matrices * runs * (link.latency_s + engine.copy_s)
        return starts_s + missing * num_bytes / (link.bytes_per_s * engine.stream_share)

    def _shared_out(self, on_cpu: Times, copied: Times) -> Times:
        """Missing experts shared out so that CPU and link end together; which share that is, to a hundredth."""
        ways = (self._mixed(on_cpu, copied, share / 100) for share in range(101))
        return min(map(self.engine.layer, ways), key=lambda times: times.total_s)

    def _mixed(self, on_cpu: Times, copied: Times, share: float) -> Times:
        """With this share copied; while CPU and link are both busy they slow each other down."""
        both, there_s = 0 < share < 1, on_cpu.gpu_experts_s
        return Times(
            gpu_experts_s=there_s + share * (copied.gpu_experts_s - there_s),
            cpu_experts_s=(1 - share) * on_cpu.cpu_experts_s * (self.machine.cpu_slowdown if both else 1.0),
            link_s=share * copied.link_s * (self.machine.h2d_slowdown if both else 1.0),
            round_trips_s=on_cpu.round_trips_s if share < 1 else 0.0,
        )
