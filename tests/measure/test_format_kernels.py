"""The table of formats: what it measures, that its figures follow from seconds and bytes, and its contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hetsched.errors import InputError
from hetsched.formats.mxfp4 import Mxfp4
from hetsched.formats.plain import Bf16
from hetsched.formats.q4_0 import Q4_0
from hetsched.formats.q8_0 import Q8_0
from hetsched.machine.profile import ExpertShape
from hetsched.measure import experts, format_kernels
from hetsched.measure.timing import Timing
from tests.cli.test_cli import call
from tests.documents import document_of

SHAPE = ExpertShape(64, 32, "bf16")
KEYS = ["format", "tokens", "kernel", "gb_per_s", "weights_per_s", "share", "lossless"]


@pytest.fixture(autouse=True)
def _small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts, "MIN_POOL_BYTES", 1 << 16)
    monkeypatch.setattr(format_kernels, "cache_bytes", lambda: 1 << 14)


def test_experts_of_a_pool_are_equal_and_lie_apart() -> None:
    """Every expert has the first one's weights in bytes of its own, gate, up and down each as the format says."""
    pool = format_kernels.PackedPool(Q8_0(), SHAPE)
    assert pool.count >= 2
    assert pool.expert_bytes == 3 * 64 * 32 * 34 // 32
    for first, other, shape in zip(pool.parts(0), pool.parts(1), pool.shapes, strict=True):
        weights = Q8_0().unpack(first, shape, torch.float32)
        assert torch.equal(weights, Q8_0().unpack(other, shape, torch.float32))
        assert weights.std() == pytest.approx(shape[1] ** -0.5, rel=0.1)
        assert first["blocks"].data_ptr() != other["blocks"].data_ptr()


@pytest.mark.parametrize("format_", [Mxfp4(), Q8_0()])
def test_what_is_measured_are_experts_of_the_pool(format_: Any) -> None:
    """All compute what the plain way does, each of so many experts on all tokens; rounded, about."""
    pool = format_kernels.PackedPool(format_, SHAPE)
    input_TH = torch.randn(3, 64)
    gate, up, down = (format_.unpack(p, s, torch.float32) for p, s in zip(pool.parts(0), pool.shapes, strict=True))
    expected = ((torch.nn.functional.silu(input_TH @ gate.t()) * (input_TH @ up.t())) @ down.t()).repeat(2, 1)
    ways = format_kernels._ways(pool, 3)
    assert {name: lossless for name, (_, lossless) in ways.items()} == {
        "packed": True, "packed-int8": False, "unpack": True,
    }  # fmt: skip
    for way, lossless in ways.values():
        off = (way(pool, input_TH, 2)(0) - expected).norm() / expected.norm()  # type: ignore[operator]
        assert off < 1e-6 if lossless else 1e-4 < off < 0.02


def test_figures_follow_from_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds made up: bytes of as many experts as a call has, over them; many tokens only by blocks."""
    seconds = iter([0.001, 0.002, 0.003, 0.004, 0.001, 0.010])

    def made_up(calls: Any, _budget_s: float) -> list[Timing]:
        return [Timing(9.0, next(seconds), 9.0, 5) for _ in calls]

    monkeypatch.setattr(format_kernels, "time_together", made_up)
    table = format_kernels.format_table({"q4_0": Q4_0()}, SHAPE, 1.0, tokens=(1, 256))
    kernels = [(1, "packed"), (1, "packed-int8"), (1, "unpack"), (256, "unpack")]
    assert [(row.tokens, row.kernel) for row in table.rows] == kernels
    pool_bytes, expert_bytes, weights = format_kernels.PackedPool(Q4_0(), SHAPE).read_bytes, 3456, 6144
    assert table.read_gb_per_s == pytest.approx(pool_bytes / 1e6)
    for row, experts_of_call, taken_s in zip(table.rows, (8, 8, 8, 1), (0.002, 0.003, 0.004, 0.010), strict=True):
        assert row.weights_per_s == pytest.approx(experts_of_call * weights / taken_s)
        assert row.gb_per_s == pytest.approx(experts_of_call * expert_bytes / taken_s / 1e9)
        assert row.share == pytest.approx(row.gb_per_s / table.read_gb_per_s)
        assert row.lossless == (row.kernel != "packed-int8")


def test_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    """The columns that others rely on, with formats and without; a format no packed kernel reads is unpacked."""
    packed, unpacked = "hetsched.formats.q8_0:Q8_0", "hetsched.formats.gptq:Gptq"
    argv = ["profile", "--kernels", "--quick", "--json", "--geometry", "hidden=256,ffn=256"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(format_kernels.format_table, "__defaults__", ((1, 256), lambda _: None))
        patch.setattr("hetsched.measure.request.QUICK_S", 0.1)
        code, out, _ = call(capsys, *argv, "--format", f"{packed},{unpacked}")
    found = document_of(out)
    assert code == 0
    assert found["schema"] == "hetsched-kernels/1"
    assert found["read_gb_per_s"] > 0
    assert [list(row) for row in found["rows"]] == [KEYS] * 6
    assert {(row["format"], row["kernel"]) for row in found["rows"]} == {
        ("q8_0", "packed"), ("q8_0", "packed-int8"), ("q8_0", "unpack"), ("gptq", "unpack"),
    }  # fmt: skip


def test_an_expert_that_a_format_cannot_store_is_refused_before_measuring() -> None:
    with pytest.raises(InputError, match="mxfp4 stores rows of a multiple of 32"):
        format_kernels.format_table({"bf16": Bf16(), "mxfp4": Mxfp4()}, ExpertShape(64, 40, "bf16"), 1e9)
