"""Decoding: what one token takes, layer by layer, at a context and with experts where a placement has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..cost.attention import attention_s
from ..cost.latency import dense_table, roofline_s
from ..cost.model import CostModel
from ..machine.profile import HardwareProfile
from .engine import Engine
from .placement import Placement
from .subject import Subject
from .times import Times

EXACT = 24  # active experts of a layer up to which every number of missing ones is gone through


def decode(subject: Subject, profile: HardwareProfile, engine: Engine, placement: Placement, context: int) -> Times:
    """Seconds of one token of one sequence after `context` tokens. Without a GPU, the placement says nothing."""
    return step(subject, profile, engine, placement, context, tokens=1, active=float(subject.geometry.top_k))


def step(
    subject: Subject,
    profile: HardwareProfile,
    engine: Engine,
    placement: Placement,
    context: int,
    tokens: int,
    active: float,
) -> Times:
    """Seconds of one step of few tokens, which make `active` experts of a layer active, all tokens together."""
    has_gpu = profile.gpu is not None
    graph = has_gpu and placement.whole
    machine = engine.on(profile, graph)
    dense = dense_times(subject, machine, engine, tokens, context)
    hits_L = placement.hits_L(subject.geometry) if has_gpu else [0.0] * subject.geometry.num_layers
    experts = Times(has_gpu=has_gpu)
    for (num_bytes, hit), count in _alike(subject.expert_bytes_L, hits_L).items():
        cost = CostModel(machine, replace(subject.geometry, expert_bytes_L=(), expert_bytes_override=num_bytes))
        ratio = num_bytes / subject.geometry.expert_bytes
        layer = _Layer(cost, engine, tokens, active, ratio)
        experts = experts.plus(layer.expected(hit).times(count))
    return dense.plus(experts)


def dense_times(subject: Subject, machine: HardwareProfile, engine: Engine, tokens: int, context: int) -> Times:
    """All of a step but the routed experts, on a machine as the engine meets it; the head for every token."""
    host_s = subject.geometry.num_layers * engine.layer_host_s(machine) + engine.step_s
    return replace(rest_times(subject, machine, tokens, context), host_s=host_s)


def rest_times(subject: Subject, machine: HardwareProfile, tokens: int, context: int) -> Times:
    """The same without the engine's own time."""
    device = machine.gpu or machine.cpu
    geometry = subject.geometry
    layers = max(len(subject.shape.layers), geometry.num_layers)
    bits = 8 * subject.dense_bytes / subject.dense_params if subject.dense_params else 0.0
    table = dense_table(device, geometry.name)
    if table is not None:
        dense_s = geometry.num_layers * CostModel(machine, geometry).dense_s(tokens)
    else:
        dense_s = layers * device.dense_call_s + roofline_s(device, subject.dense_params, bits, tokens)
    head_bits = 8 * subject.head_bytes / subject.head_params if subject.head_params else 0.0
    return Times(
        dense_s=dense_s,
        attention_s=attention_s(device, subject.shape, tokens, context, subject.kv_element_bytes),
        head_s=roofline_s(device, subject.head_params, head_bits, tokens),
        has_gpu=machine.gpu is not None,
    )


def _alike(expert_bytes_L: Sequence[int], hits_L: Sequence[float]) -> dict[tuple[int, float], int]:
    """How many layers have experts of so many bytes and so large a share of their demand on the GPU."""
    pairs = list(zip(expert_bytes_L, hits_L, strict=True))
    return {pair: pairs.count(pair) for pair in dict.fromkeys(pairs)}


def _misses(active: int, chance: float) -> list[tuple[int, float]]:
    """How many of the active experts may be missing, and the chances of it.

    Beyond EXACT active ones by three numbers with the binomial's mean and variance (Gauss-Hermite quadrature).
    """
    if active <= EXACT:
        rows = range(active + 1)
        found = [(n, math.comb(active, n) * chance**n * (1 - chance) ** (active - n)) for n in rows]
    else:
        mean, off = active * chance, math.sqrt(3 * active * chance * (1 - chance))
        three = ((mean - off, 1 / 6), (mean, 2 / 3), (mean + off, 1 / 6))
        found = [(min(max(round(n), 0), active), weight) for n, weight in three]
    return [(n, weight) for n, weight in found if weight]


class _Layer:
    """One layer's experts in a step: expected parts over how many of the active ones are missing.

    Each is missing by itself with the same chance, so their number is binomial; a layer with the average number ends
    sooner than layers do on average, where the longer lane counts.
    """

    def __init__(self, cost: CostModel, engine: Engine, tokens: int, active: float, ratio: float) -> None:
        self._engine, self._active = engine, active
        self._has_gpu, self._fetches = cost.has_gpu, engine.misses == "fetch or cpu"
        each = tokens * cost.geometry.top_k / active
        self._gpu_s = ratio * float(cost.gpu_s(each)) if cost.has_gpu else math.inf
        self._cpu_s = ratio * float(cost.cpu_s(each))
        self._gpu_call_s, self._cpu_call_s = cost.gpu_call_s(), cost.cpu_call_s()
        self._copy_s = cost.copy_s()
        self._slower = cost.profile.cpu_slowdown, cost.profile.h2d_slowdown
        self._trip_s = cost.roundtrip_s(tokens) + engine.handover_s if cost.has_gpu else 0.0

    def expected(self, hit: float) -> Times:
        """Parts of a layer of which this share of the demand is met on the GPU."""
        whole, part = int(self._active), self._active - int(self._active)
        found = self._over_misses(whole, hit).times(1 - part) if part < 1 else Times()
        return found.plus(self._over_misses(whole + 1, hit).times(part)) if part else found

    def _over_misses(self, active: int, hit: float) -> Times:
        found = Times()
        for missing, chance in _misses(active, 1 - hit):
            found = found.plus(self._best(active, missing).times(chance))
        return found

    def _best(self, active: int, missing: int) -> Times:
        """With as many of the missing ones fetched as end the layer soonest."""
        most = missing if self._fetches and self._has_gpu else 0
        ways = {*range(0, most, max(1, most // EXACT)), most}
        return min((self._parts(active, missing, fetched) for fetched in sorted(ways)), key=lambda t: t.total_s)

    def _parts(self, active: int, missing: int, fetched: int) -> Times:
        on_cpu, on_gpu = missing - fetched, active - missing + fetched
        slower = self._slower if on_cpu and fetched else (1.0, 1.0)
        gpu_s = self._gpu_call_s + on_gpu * self._gpu_s if on_gpu else 0.0
        link_s = fetched * self._copy_s * slower[1] if fetched else 0.0
        cpu_s = self._cpu_call_s + on_cpu * self._cpu_s * slower[0] if on_cpu else 0.0
        trip_s = self._trip_s if on_cpu else 0.0
        times = self._engine.layer(Times(gpu_experts_s=gpu_s, cpu_experts_s=cpu_s, link_s=link_s, round_trips_s=trip_s))
        waited_s = self._after_copies_s(fetched, link_s) - times.total_s
        return replace(times, hidden_s=times.hidden_s - max(0.0, waited_s))

    def _after_copies_s(self, fetched: int, link_s: float) -> float:
        """When the last fetched expert has been computed, at the earliest: each is once it has come, in their order."""
        if not fetched:
            return 0.0
        return max(link_s / fetched + fetched * self._gpu_s, link_s + self._gpu_s)
