"""The command behind README's figures: which of fused kernel and eager is nearer to double precision."""

from __future__ import annotations

from .nearer import KERNEL, Row, rows_of, summary


def test_the_fused_kernel_is_nearer_than_eager() -> None:
    """It rounds once where eager rounds after every operation; grouped_mm rounds about as eager does."""
    rows = rows_of("qwen2_moe.Qwen2MoeExperts")
    fused = rows[KERNEL]
    assert 0 < fused.error < 0.7 * fused.eager_error
    assert rows["grouped_mm"].error > fused.error
    assert fused.same_tokens is not None


def test_the_summary_counts_what_it_is_given() -> None:
    rows = [Row("a", True, 1.0, 2.0), Row("b", None, 2.0, 2.0), Row("c", False, 2.0, 1.0)]
    assert summary(rows) == (
        "tokens are eager's in 1 of 2 models; the experts' error is 1.00 of eager's (geometric mean of 3), "
        "smaller in 1, the same in 1"
    )
