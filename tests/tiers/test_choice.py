"""Which tier: what each costs, and that "auto" finds the one that must win.

Shapes: S sampled steps, L layers, E experts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hetsched.accelerators.cuda.source import MAX_ROWS
from hetsched.cost.model import CostModel
from hetsched.errors import InputError
from hetsched.geometry import MoEGeometry
from hetsched.machine.gallery import machine, model
from hetsched.machine.profile import HardwareProfile
from hetsched.tiers import FUSED_TOKENS, INT4, INT8, Tier, lossy_tier, preferred, sampled_demand, stored_bytes

SHAPE = MoEGeometry("made", num_layers=3, num_experts=8, top_k=2, hidden=1024, ffn=512)


def slow_cpu() -> HardwareProfile:
    """A machine on which a CPU expert takes far longer than any GPU expert."""
    made = machine("rtx-4090")
    return replace(made, cpu=replace(made.cpu, tables=(), per_expert_s=1e-2))


def tiers(hardware: HardwareProfile) -> list[Tier]:
    lossy = [lossy_tier(precision, stored_bytes(precision, SHAPE), SHAPE, hardware) for precision in (INT8, INT4)]
    return [Tier(None, SHAPE, hardware), *lossy]


@pytest.mark.parametrize(
    ("bits", "winner"), [(16.1, "exact"), (8.6, "int8"), (4.6, "int4")], ids=["all exact", "all int8", "all int4"]
)
def test_the_most_exact_tier_that_holds_everything_wins(bits: float, winner: str) -> None:
    """Where the CPU is hopeless, the best tier is the first of which all experts fit."""
    budget = int(SHAPE.total_experts * SHAPE.expert_params * bits / 8)
    chosen = preferred(tiers(slow_cpu()), budget)
    assert chosen.name == winner
    assert f"{winner} " in chosen.reason


def test_exact_wins_where_the_cpu_is_as_good() -> None:
    """A CPU expert that takes no longer than one on the GPU: residents gain nothing, nor does holding more of them."""
    made = machine("rtx-4090")
    assert made.gpu is not None
    fast = replace(made, cpu=replace(made.gpu, call_s=0.0, tables=()))
    assert preferred(tiers(fast), SHAPE.total_expert_bytes // 4).name == "exact"


def test_the_calibration_decides() -> None:
    """The same budget: all experts alike want int4 to hold them all, two hot ones a layer are held exact."""
    budget = 8 * SHAPE.expert_bytes
    hot_LE = np.zeros((3, 8))
    hot_LE[:, [1, 5]] = 1e6
    assert preferred(tiers(slow_cpu()), budget).name == "int4"
    found = preferred(tiers(slow_cpu()), budget, hot_LE)
    assert found.name == "exact"
    assert "calibration" in found.reason


def test_copies_are_shorter_and_slots_more() -> None:
    """Bytes as the format says: 8.5 and 4.5 of 16 bits, for copies and for slots."""
    hardware = machine("rtx-4060-laptop-8gb")
    assert hardware.h2d is not None
    exact, *lossy = (tier.cost for tier in tiers(hardware))
    many = replace(SHAPE, num_layers=100)
    assert many.slots(100 * SHAPE.expert_bytes) == 100
    for cost, precision, slots in zip(lossy, (INT8, INT4), (188, 355), strict=True):
        transfer_s = exact.copy_s() - hardware.h2d.latency_s
        expected_s = hardware.h2d.latency_s + transfer_s * precision.format.weight_bits / 16
        assert cost.copy_s() == pytest.approx(expected_s)
        tier = lossy_tier(precision, stored_bytes(precision, many), many, hardware)
        assert tier.slots.slots(100 * SHAPE.expert_bytes) == slots


def test_gpu_experts_take_what_reading_or_unpacking_takes() -> None:
    """Up to 4 tokens by the bytes read; for more, or where no kernel fits, exact experts and what unpacking them takes:
    reading the copy, writing two bytes a weight, and two launches of the four of a call."""
    assert FUSED_TOKENS == MAX_ROWS
    hardware = machine("rtx-4060-laptop-8gb")
    gpu = hardware.gpu
    assert gpu is not None
    exact = CostModel(hardware, SHAPE)
    for precision in (INT8, INT4):
        row_bytes = stored_bytes(precision, SHAPE)
        fused = lossy_tier(precision, row_bytes, SHAPE, hardware).cost
        unknown = lossy_tier(precision, row_bytes, SHAPE, hardware, fused=False).cost
        unpacked_s = (row_bytes + 2 * SHAPE.expert_params) / gpu.read_bytes_per_s + (gpu.call_s + gpu.per_expert_s) / 2
        read_s = gpu.per_expert_s + row_bytes / gpu.read_bytes_per_s
        for n in (1, 2, 4):
            assert float(fused.gpu_s(n)) == pytest.approx(read_s)
        for n in (5, 64, 1024):
            assert float(fused.gpu_s(n)) == pytest.approx(float(exact.gpu_s(n)) + unpacked_s)
        for n in (1, 4, 64):
            assert float(unknown.gpu_s(n)) == pytest.approx(float(exact.gpu_s(n)) + unpacked_s)
            assert float(unknown.cpu_s(n)) == float(fused.cpu_s(n)) == float(exact.cpu_s(n))


def test_what_a_format_cannot_store_is_kept_and_counted() -> None:
    """A second matrix of no whole blocks stays in 16 bits, and only the first is unpacked."""
    odd, hardware = replace(SHAPE, ffn=520), machine("rtx-4090")
    assert not INT4.stores((1024, 520))
    assert stored_bytes(INT4, odd) == 2 * 520 * 1024 * 4.5 / 8 + 1024 * 520 * 2
    assert hardware.gpu is not None
    tier = lossy_tier(INT4, stored_bytes(INT4, odd), odd, hardware)
    more_s = float(tier.cost.gpu_s(1)) - float(CostModel(hardware, odd).gpu_s(1))
    traffic_bytes = 2 * 520 * 1024 * (4.5 + 16) / 8
    launches_s = (hardware.gpu.call_s + hardware.gpu.per_expert_s) / 2
    assert more_s == pytest.approx(traffic_bytes / hardware.gpu.read_bytes_per_s + launches_s)


def test_standing_in_keeps_the_other_models_proportions() -> None:
    """fp32 experts that stand in for bf16 ones: a slot takes 8.5 of 16 parts of an expert, not 8.5 of 32."""
    own, other = replace(SHAPE, dtype="fp32"), model("qwen3-30b-a3b")
    tier = lossy_tier(INT8, stored_bytes(INT8, own), own, machine("rtx-4090"), other)
    assert tier.slots.expert_bytes / own.expert_bytes == pytest.approx(8.5 / 16, rel=1e-3)
    assert tier.cost.geometry.expert_bytes == stored_bytes(INT8, other)


def test_copies_that_are_no_smaller_are_refused() -> None:
    """Experts in mxfp4 are smaller than int4 copies; the message says so in bytes."""
    packed = model("gpt-oss-20b")
    with pytest.raises(InputError, match=r"mxfp4.*drop gpu_precision"):
        lossy_tier(INT4, stored_bytes(INT4, packed), packed, machine("rtx-4090"))


def test_sampled_steps_ask_for_top_k_existing_experts_as_often_as_calibrated() -> None:
    frequency_LE = np.tile(np.arange(8.0), (3, 1))
    demand_SLE = sampled_demand(replace(SHAPE, experts_L=(8, 6, 8)), frequency_LE)
    assert (demand_SLE.sum(axis=2) == 2).all()
    assert not demand_SLE[:, 1, 6:].any()
    shares_E = demand_SLE[:, 0].sum(axis=0)
    assert shares_E[0] == 0
    assert shares_E[6:].sum() > shares_E[1:3].sum()
    assert (frequency_LE == np.arange(8.0)).all()
