"""Tiers: lossy copies of experts for the GPU, what they take, and which of them a budget asks for. No torch.

One precision serves all slots of a run. Slots then stay of one size, a fetch has one victim, and dispatch stays exact.

Shapes: S sampled steps, L layers, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod

import numpy as np

from .cost.latency import Interpolation, expert_table, roofline_s
from .cost.model import CostModel
from .dispatch.placement import placement_problem, solve_guarded
from .errors import InputError
from .formats import Format, Shape, format_of
from .geometry import WEIGHT_BITS, MoEGeometry
from .machine.profile import ExpertShape, HardwareProfile, LatencyTable, Processor
from .plugins import plugin
from .types import FloatArray, IntArray

ROW_ALIGN = 64  # bytes; parameters and slots begin where any number may
CALL_KERNELS = 4  # launches of a call with one expert: two products, an activation, a product
UNPACK_KERNELS = 2  # launches that unpack an expert, whose matrices are two
FUSED_TOKENS = 4  # of one expert, that the CUDA kernels take in one launch
NUMBERS = ("fp32", "bf16", "fp16")
SAMPLED_STEPS = 48
SUBGRADIENT_STEPS = 20
WORTH = 0.05  # of a step: what a lossier precision must save to be preferred


@dataclass(frozen=True)
class Precision:
    """What the GPU's copies are stored as: a format of hetsched.formats that packs, and that the CUDA kernels read."""

    name: str
    spec: str

    @property
    def format(self) -> Format:
        """The format; always the same object, so that layouts of it are equal."""
        return _format_of(self.spec)

    def stores(self, shape: Shape) -> bool:
        """Whether a matrix [R, C] can be in that format; what cannot stays as it is, exact, in the copies too."""
        try:
            self.format.parts(shape)
        except InputError:
            return False
        return True


_format_of = cache(format_of)
INT8, INT4 = Precision("int8", "q8_0"), Precision("int4", "q4_0")
LOSSIER = (INT8, INT4)  # what "auto" tries
PRECISIONS = {
    each.name: each for each in (*LOSSIER, *(Precision(name, name) for name in ("fp8-block", "q6_k", "q4_k", "mxfp4")))
}


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
        """That of the precision, or exact."""
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
    fused: bool = True,
) -> Tier:
    """The tier of one precision; `row_bytes`: the largest expert's copy. `fused`: the kernels know its activation.

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
        replace(hardware, gpu=with_copies(hardware.gpu, precision, timed, fused)),
        timed_as and replace(timed_as, expert_bytes_override=copy_bytes),
        f"{precision.name} was asked for",
    )


def matrix_shapes(geometry: MoEGeometry) -> tuple[Shape, Shape]:
    """An expert's two matrices by output and input columns: gate and up as one, and down."""
    return ((geometry.matrices - 1) * geometry.ffn, geometry.hidden), (geometry.hidden, geometry.ffn)


def stored_bytes(precision: Precision, geometry: MoEGeometry) -> int:
    """Bytes of one expert's copy by its shape, as rows have them; biases stay as they are."""
    exact_bits = number_bits(geometry.dtype)
    sizes = [
        precision.format.num_bytes(shape) if precision.stores(shape) else math.ceil(prod(shape) * exact_bits / 8)
        for shape in matrix_shapes(geometry)
    ]
    if geometry.bias:
        sizes += [math.ceil(rows * exact_bits / 8) for rows, _ in matrix_shapes(geometry)]
    return sum(-(-size // ROW_ALIGN) * ROW_ALIGN for size in sizes)


def number_bits(dtype: str) -> float:
    """Bits of a number that is not packed in a model whose experts are stored as `dtype`; 16 where they are packed."""
    return WEIGHT_BITS[dtype] if dtype in NUMBERS else 16.0


def with_copies(gpu: Processor, precision: Precision, geometry: MoEGeometry, fused: bool) -> Processor:
    """The GPU with the latency of experts computed from copies.

    Fused kernels serve products of up to FUSED_TOKENS tokens where they know the activation and the format stores all
    matrices, and read the copy alone: what the exact expert adds to a call, times the ratio of the two rooflines, as
    for any other dtype. Else the weights are unpacked first, which adds reading the copy and writing them at the rate
    at which experts are read, and the launches.
    """
    table = expert_table(gpu, ExpertShape.of(geometry))
    exact_s = Interpolation(table.tokens_P, table.median_s_P)
    shapes, bits = matrix_shapes(geometry), precision.format.weight_bits
    stored = [shape for shape in shapes if precision.stores(shape)]
    traffic_bytes = sum(map(prod, stored)) * (bits + number_bits(geometry.dtype)) / 8
    unpacked_s = traffic_bytes / gpu.read_bytes_per_s + UNPACK_KERNELS * (gpu.call_s + gpu.per_expert_s) / CALL_KERNELS
    reads_copy, weights = fused and len(stored) == len(shapes), sum(map(prod, shapes))

    def seconds(n: int) -> float:
        if not reads_copy or n > FUSED_TOKENS:
            return float(exact_s(n)) + unpacked_s
        each = bits, WEIGHT_BITS[geometry.dtype]
        copy_s, weights_s = (gpu.per_expert_s + roofline_s(gpu, weights, b, n) for b in each)
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
