"""What a CPU profile measures: experts in the format in use, by kernels whose names the profile records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hetsched.cost.model import CostModel  # noqa: E402
from hetsched.geometry import MoEGeometry  # noqa: E402
from hetsched.machine.profile import ExpertShape, HardwareProfile, LatencyTable, Processor, Source  # noqa: E402
from hetsched.machine.profile_yaml import load_profile, save_profile  # noqa: E402
from hetsched.measure import check, cpu, cpu_experts, format_kernels, profile_run  # noqa: E402
from hetsched.measure.request import Request  # noqa: E402

SHAPE = ExpertShape(64, 32, "q8_0")


@pytest.fixture(autouse=True)
def _small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hetsched.measure.request.QUICK_S", 0.2)
    monkeypatch.setattr("hetsched.measure.experts.MIN_POOL_BYTES", 1 << 16)
    monkeypatch.setattr("hetsched.measure.experts.cache_bytes", lambda: 1 << 16)
    monkeypatch.setattr(format_kernels, "cache_bytes", lambda: 1 << 14)


def recorded(kernel: str, dtype: str = "q8_0") -> HardwareProfile:
    """A machine whose profile records these kernels."""
    table = LatencyTable(replace(SHAPE, dtype=dtype), (1, 4), (1e-3, 2e-3), source=Source.MEASURED, kernel=kernel)
    processor = Processor("a CPU", 2**35, 1e10, 1e11, 1e-5, (table,))
    return HardwareProfile("box", processor, None, None, None, Source.MEASURED, "2026-01-31")


@pytest.mark.parametrize(
    ("dtype", "kernels"),
    [("q8_0", {"packed", "unpack"}), ("q8_0/q4_0", {"packed", "unpack"}), ("awq+group=32", {"unpack"})],
)
def test_a_packed_profile_is_of_its_format(dtype: str, kernels: set[str], tmp_path: Any) -> None:
    """Measured as stored, by named kernels, no note of anything else; saved, loaded, and read by the cost model as its
    own."""
    geometry = MoEGeometry("tiny", 1, 4, 2, 64, 32, dtype, dense_params=64 * 64)
    profile = profile_run.measure_profile(Request(geometry, "cpu", quick=True, tokens=(1, 2, 4)))
    (table,) = profile.cpu.tables
    assert table.shape == ExpertShape.of(geometry)
    assert {part.partition("@")[0] for part in table.kernel.split("+")} <= kernels
    assert table.kernel.partition("+")[0].endswith("@1")
    assert not any("bf16" in note for note in profile.notes)
    assert profile.cpu.call_s + profile.cpu.per_expert_s > 0
    slow = replace(profile, cpu=replace(profile.cpu, read_bytes_per_s=1e12))  # so small an expert stays in a cache
    save_profile(slow, tmp_path / "p.yaml")
    assert load_profile(tmp_path / "p.yaml") == slow
    assert CostModel(slow, geometry).sources == {"cpu": Source.MEASURED}


def test_a_width_alone_is_measured_with_bf16_and_said_so() -> None:
    """int4 is no layout; a GPU's table is of plain weights whatever the format."""
    shape, notes = cpu.runnable_shape(replace(SHAPE, dtype="int4"))
    assert (shape.dtype, len(notes)) == ("bf16", 1)
    assert "cpu: no kernel is measured on int4" in notes[0]
    assert cpu.runnable_shape(SHAPE) == (SHAPE, [])
    shape, notes = cpu.runnable_shape(SHAPE, packed=False)
    assert (shape.dtype, notes[0][:4]) == ("bf16", "gpu:")


@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_ways_to_compute_agree(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed, or unpacked before the products: the same expert, within rounding."""
    drawn = torch.randn(tokens, 64)
    monkeypatch.setattr(cpu_experts._Packed, "_drawn", lambda *_: drawn)
    found = [
        cpu_experts.cpu_experts(SHAPE, 1.0, recorded(f"{name}@1")).call(tokens)(0) for name in ("packed", "unpack")
    ]
    assert found[0].norm() > 0
    assert torch.allclose(*found, rtol=1e-4, atol=1e-5)


def test_kernels_of_a_profile_are_taken_and_others_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the profile records for this format; a name that this version does not know is no reason to fail."""
    kept = cpu_experts.cpu_experts(SHAPE, 0.01, recorded("packed@1+unpack@8"))
    assert (kept.kernel, list(kept.from_tokens)) == ("packed@1+unpack@8", [1, 8])
    assert "box of 2026-01-31" in kept.reason
    used: list[str] = []

    def named(name: str) -> Any:
        return lambda *_: lambda _: used.append(name)

    monkeypatch.setattr(kept, "_ways", {name: named(name) for name in ("packed", "unpack")})
    for count in (1, 7, 8, 100):
        kept.call(count)(0)
    assert used == ["packed", "packed", "unpack", "unpack"]
    for profile in (recorded("by-hand@1"), recorded("packed@1", dtype="q4_0")):
        assert "box" not in cpu_experts.cpu_experts(SHAPE, 0.01, profile).reason


def test_the_check_measures_the_format_too() -> None:
    """Prediction and measurement are of one thing: seconds of the format's own table beside a run of the same."""
    geometry = MoEGeometry("tiny", 1, 4, 2, 64, 32, "q8_0")
    rows = check.check_profile(recorded("packed@1"), geometry, 0.05)
    assert [row.n for row in rows if row.device == "cpu"] == list(check.CHECK_TOKENS)
    assert rows[0].predicted_s == pytest.approx(1e-3 * 3**0.5, rel=0.02)
