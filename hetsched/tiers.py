"""Tiers: lossy copies of experts for the GPU, what they take, and which of them a budget asks for. No torch.

One precision serves all slots of a run. Slots then stay of one size, a fetch has one victim, and dispatch stays exact.

Shapes: S sampled steps, L layers, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .cost.latency import Interpolation, expert_table, roofline_s
from .cost.model import CostModel
from .dispatch.placement import placement_problem, solve_guarded
from .errors import InputError
from .geometry import WEIGHT_BITS, MoEGeometry
from .machine.profile import ExpertShape, HardwareProfile, LatencyTable, Processor
from .plugins import plugin
from .types import FloatArray, IntArray

BLOCK = 32  # weights of one scale
ROW_ALIGN = 64  # bytes; slots begin where any number may
CALL_KERNELS = 4  # launches of a call with one expert: two products, an activation, a product
FUSED_TOKENS = 4  # of one expert, that the CUDA kernels take in one launch
SAMPLED_STEPS = 48
SUBGRADIENT_STEPS = 20
WORTH = 0.05  # of a step: what a lossier precision must save to be preferred


@dataclass(frozen=True)
class Precision:
    """A format of the GPU's copies, and what making weights of it again costs there, where no kernel reads it.

    `gguf_type`: the format's name in GGUF: blocks of 32 weights with one fp16 scale. `weight_bits`: scale included.
    `traffic_bytes`: read and written per weight by the operations of QuantisedWeight, the result aside. `kernels`:
    their launches for an expert's two matrices.
    """

    name: str
    gguf_type: str
    weight_bits: float
    traffic_bytes: float
    kernels: int


INT8 = Precision("int8", "Q8_0", 8.5, 1.0, 4)
INT4 = Precision("int4", "Q4_0", 4.5, 3.0, 12)
PRECISIONS = {precision.name: precision for precision in (INT8, INT4)}


@dataclass(frozen=True)
class Tier:
    """What the GPU's slots hold: `precision` None means the model's own weights, bit for bit.

    `slots`: the model with the bytes of a slot for those of an expert. `hardware`: the machine whose GPU also makes
    weights of the copies. `timed_as`: the model that takes this one's place in time, with its copies' bytes. `reason`:
    why this tier.
    """

    precision: Precision | None
    slots: MoEGeometry
    hardware: HardwareProfile
    timed_as: MoEGeometry | None = None
    reason: str = "the model's own weights, bit for bit"

    @property
    def name(self) -> str:
        """int8, int4, or exact."""
        return self.precision.name if self.precision else "exact"

    @property
    def cost(self) -> CostModel:
        """Seconds with copies of this tier."""
        return CostModel(self.hardware, self.timed_as or self.slots)


def lossy_tier(
    precision: Precision,
    row_bytes: int,
    geometry: MoEGeometry,
    hardware: HardwareProfile,
    timed_as: MoEGeometry | None = None,
    plain: bool = True,
) -> Tier:
    """The tier of one precision; `row_bytes`: the largest expert's copy. `plain`: x W^T, as the kernels compute it.

    With `timed_as` a slot takes the same share of an expert as that model's copies would, padded if need be, so that
    slots and copies are in its proportions. Raises InputError where copies would be no smaller than the experts.
    """
    timed = geometry if timed_as is None else timed_as
    copy_bytes = row_bytes if timed_as is None else stored_bytes(precision, timed_as)
    share = copy_bytes / timed.expert_bytes
    slot_bytes = max(row_bytes, math.ceil(geometry.expert_bytes * share / ROW_ALIGN) * ROW_ALIGN)
    if share >= 1 or slot_bytes >= geometry.expert_bytes:
        raise InputError(
            f"{precision.name} copies of {timed.name}'s experts ({timed.dtype}) take {copy_bytes} bytes, the experts "
            f"{timed.expert_bytes}; drop gpu_precision or choose a smaller one"
        )
    assert hardware.gpu is not None, "slots need a GPU"
    return Tier(
        precision,
        replace(geometry, expert_bytes_override=slot_bytes),
        replace(hardware, gpu=with_copies(hardware.gpu, precision, timed, plain)),
        timed_as and replace(timed_as, expert_bytes_override=copy_bytes),
        f"{precision.name} was asked for",
    )


def stored_bytes(precision: Precision, geometry: MoEGeometry) -> int:
    """Bytes of one expert's copy by its shape; biases stay as they are."""
    matrices = geometry.matrices * geometry.hidden * geometry.ffn
    bias_bits = max(WEIGHT_BITS[geometry.dtype], 16.0)
    return math.ceil((matrices * precision.weight_bits + geometry.bias_params * bias_bits) / 8)


def with_copies(gpu: Processor, precision: Precision, geometry: MoEGeometry, plain: bool) -> Processor:
    """The GPU with the latency of experts computed from copies.

    Fused kernels serve plain products of up to FUSED_TOKENS tokens where rows are whole blocks, and read the copy
    alone: what the exact expert adds to a call, times the ratio of the two rooflines, as for any other dtype.
    Else weights are made first, which adds the traffic of those operations at the rate at which experts are read, and
    their launches.
    """
    table = expert_table(gpu, ExpertShape.of(geometry))
    exact_s = Interpolation(table.tokens_P, table.median_s_P)
    weights, exact_bits = geometry.matrices * geometry.hidden * geometry.ffn, WEIGHT_BITS[geometry.dtype]
    traffic_bytes = weights * (precision.traffic_bytes + exact_bits / 8)
    launch_s = (gpu.call_s + gpu.per_expert_s) / CALL_KERNELS
    made_s = traffic_bytes / gpu.read_bytes_per_s + precision.kernels * launch_s

    fused = plain and geometry.hidden % BLOCK == 0 and geometry.ffn % BLOCK == 0

    def seconds(n: int) -> float:
        if not fused or n > FUSED_TOKENS:
            return float(exact_s(n)) + made_s
        bits = precision.weight_bits, exact_bits
        copy_s, weights_s = (gpu.per_expert_s + roofline_s(gpu, weights, each, n) for each in bits)
        return float(exact_s(n)) * copy_s / weights_s

    tokens_P = tuple(sorted({*range(1, FUSED_TOKENS + 2), *table.tokens_P}))
    seconds_P = tuple(map(seconds, tokens_P))
    return replace(gpu, tables=(LatencyTable(table.shape, tokens_P, seconds_P, source=table.source, marginal=True),))


def preferred(tiers: Sequence[Tier], budget_bytes: int, frequency_LE: FloatArray | None = None) -> Tier:
    """The tier whose best placement under the budget takes the least time a decode step, with its reason.

    `tiers`: exact first, then ever lossier; a lossier one must save WORTH of the step, by what it lets stay on the GPU:
    its GPU experts are not taken to be faster than exact ones. The placement problem is that of
    hetsched.dispatch.placement with one tier for all experts, posed on steps drawn from `frequency_LE` (tokens of each
    expert; None: all alike) and solved as "lagrange" does; experts that are not placed run on the CPU, exact.
    """
    demand_SLE = sampled_demand(tiers[0].slots, frequency_LE)
    n = np.arange(int(demand_SLE.max()) + 1)
    exact_s = tiers[0].cost.gpu_s(n)
    seconds = [step_s(tier, demand_SLE, budget_bytes, np.maximum(exact_s, tier.cost.gpu_s(n))) for tier in tiers]
    chosen = 0
    for number in range(1, len(tiers)):
        if seconds[number] < seconds[chosen] * (1 - WORTH):
            chosen = number
    named = ", ".join(f"{tier.name} {1e3 * s:.3g} ms" for tier, s in zip(tiers, seconds, strict=True))
    whence = "alike" if frequency_LE is None else "as in the calibration run"
    reason = f"best placement of {budget_bytes} bytes, experts asked for {whence}, seconds a step: {named}"
    return replace(tiers[chosen], reason=reason)


def step_s(tier: Tier, demand_SLE: IntArray, budget_bytes: int, gpu_s_of: FloatArray) -> float:
    """Expected seconds of a decode step with the best placement found in one tier; what is loaded is free.

    `gpu_s_of[n]`: seconds of one GPU expert on n tokens.
    """
    cost, n = tier.cost, np.arange(len(gpu_s_of))
    problem = placement_problem(
        demand_SLE,
        gpu_s_of=[gpu_s_of],
        cpu_s_of=cost.cpu_s(n),
        tier_bytes=[tier.slots.expert_bytes],
        tier_copy_s=[cost.copy_s()],
        capacity_bytes_G=[budget_bytes],
        dense_s=cost.dense_s(1),
        roundtrip_s=cost.cpu_start_s(1),
        gpu_call_s=cost.gpu_call_s(),
        window_steps=10**9,
    )
    solver = plugin("hetsched.placement_solvers", "lagrange")(steps=SUBGRADIENT_STEPS)
    return solve_guarded(solver, problem).objective_s


def sampled_demand(geometry: MoEGeometry, frequency_LE: FloatArray | None = None) -> IntArray:
    """Tokens per expert of S decode steps, int64 [S, L, E]: top_k experts a layer, without replacement, as frequent.

    Each expert's key is log(frequency) plus Gumbel noise; the largest keys win (Efraimidis and Spirakis 2006 in
    logarithms). The same numbers at every call. Experts never asked for come last, those that do not exist not at all.
    """
    layers, experts = geometry.num_layers, geometry.num_experts
    weight_LE = np.ones((layers, experts)) if frequency_LE is None else np.maximum(frequency_LE, 1e-9)
    for layer, count in enumerate(geometry.experts_L):
        weight_LE[layer, count:] = 0.0
    noise_SLE = np.random.default_rng(0).gumbel(size=(SAMPLED_STEPS, layers, experts))
    with np.errstate(divide="ignore"):
        key_SLE = np.log(weight_LE) + noise_SLE
    chosen = np.argpartition(-key_SLE, geometry.top_k - 1, axis=-1)[..., : geometry.top_k]
    demand_SLE = np.zeros((SAMPLED_STEPS, layers, experts), np.int64)
    np.put_along_axis(demand_SLE, chosen, 1, axis=-1)
    return demand_SLE
