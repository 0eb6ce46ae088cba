"""Prefill: what a prompt's tokens take, batch by batch; experts that are not on the GPU are copied there or stay."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from ..cost.model import CostModel
from ..geometry import MoEGeometry
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
        count = len(list(group))
        experts = _experts(subject, machine, engine, placement, size, active_in_prompt(subject.geometry, size))
        whole = whole.plus(experts.over(1 / count))
    for first in range(0, tokens, batch):
        size = min(batch, tokens - first)
        whole = whole.plus(replace(dense_times(subject, machine, engine, size, first), head_s=0.0))
    last = dense_times(subject, machine, engine, 1, tokens)
    return replace(whole, head_s=last.head_s).over(tokens)


def _experts(
    subject: Subject, machine: HardwareProfile, engine: Engine, placement: Placement, tokens: int, active: float
) -> Times:
    """A batch's routed experts, all layers together."""
    geometry = subject.geometry
    whole = Times(has_gpu=machine.gpu is not None)
    resident_L = placement.resident_L(geometry) if machine.gpu else [0] * geometry.num_layers
    hits_L = placement.hits_L(geometry) if machine.gpu else [0.0] * geometry.num_layers
    alike = list(zip(subject.expert_bytes_L, resident_L, hits_L, strict=True))
    for kind in dict.fromkeys(alike):
        times = _layer(subject, machine, engine, tokens, active, *kind)
        whole = whole.plus(times.over(1 / alike.count(kind)))
    return whole


def _layer(
    subject: Subject,
    machine: HardwareProfile,
    engine: Engine,
    tokens: int,
    active: float,
    expert_bytes: int,
    resident: int,
    hit: float,
) -> Times:
    """One layer: experts that are there, and the missing ones by the engine's way with prompts.

    Of E experts as many are missing as are active and not resident, at most; they have what demand these leave.
    """
    geometry = subject.geometry
    ratio = expert_bytes / geometry.expert_bytes
    cost = CostModel(machine, geometry)
    assignments = tokens * geometry.top_k
    missing = max(0.0, active * (1 - resident / geometry.num_experts))
    there = active - missing
    gpu_s = cost.gpu_call_s() if cost.has_gpu else 0.0
    if there and cost.has_gpu:
        gpu_s += there * ratio * float(cost.gpu_s(max(1.0, assignments * hit / there)))
    if not missing:
        return Times(gpu_experts_s=gpu_s)
    each = max(1.0, assignments * (1 - hit) / missing)
    trip_s = cost.roundtrip_s(tokens) + engine.handover_s if cost.has_gpu else 0.0
    on_cpu = Times(
        gpu_experts_s=gpu_s if there else 0.0,
        cpu_experts_s=cost.cpu_call_s() + missing * ratio * float(cost.cpu_s(each)),
        round_trips_s=trip_s,
    )
    if machine.h2d is None or tokens < engine.stream_from:
        return _overlapped(on_cpu, engine)
    copied = Times(
        gpu_experts_s=gpu_s + missing * ratio * float(cost.gpu_s(each)),
        link_s=_stream_s(machine.h2d, engine, geometry, missing, expert_bytes),
    )
    if engine.prompts == "stream":
        return _overlapped(copied, engine)
    if engine.prompts == "faster":
        return min(_overlapped(on_cpu, engine), _overlapped(copied, engine), key=lambda times: times.total_s)
    return _both(on_cpu, copied, engine)


def _stream_s(link: Link, engine: Engine, geometry: MoEGeometry, missing: float, num_bytes: int) -> float:
    """Seconds to copy the missing experts of a layer: neighbours of one matrix in one copy, as they lie in a file.

    Where m of E are missing at random, a missing one begins a run of neighbours with chance 1 - m / E.
    """
    runs = 1 + missing * max(0.0, 1 - missing / geometry.num_experts)
    copies_s = geometry.matrices * runs * (link.latency_s + engine.copy_s)
    return copies_s + missing * num_bytes / (link.bytes_per_s * engine.stream_share)


def _both(on_cpu: Times, copied: Times, engine: Engine) -> Times:
    """Missing experts shared out so that CPU and link end together; how they are shared is found in hundredths."""
    mixes = (_mixed(on_cpu, copied, share / 100) for share in range(101))
    return min((_overlapped(mix, engine) for mix in mixes), key=lambda times: times.total_s)


def _mixed(on_cpu: Times, copied: Times, share: float) -> Times:
    there_s = on_cpu.gpu_experts_s
    return Times(
        gpu_experts_s=there_s + share * (copied.gpu_experts_s - there_s),
        cpu_experts_s=(1 - share) * on_cpu.cpu_experts_s,
        link_s=share * copied.link_s,
        round_trips_s=on_cpu.round_trips_s if share < 1 else 0.0,
    )


def _overlapped(times: Times, engine: Engine) -> Times:
    """The layer ends with its longest lane where lanes overlap, else after all of them."""
    if not engine.overlaps:
        return times
    longest_s = max(times.gpu_experts_s, times.link_s, times.cpu_experts_s + times.round_trips_s)
    return replace(times, hidden_s=sum(times.parts.values()) - longest_s)
