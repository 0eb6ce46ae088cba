"""`hetsched bench --cpu-only`: three ways of one model in turns, and a report of what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from hetsched.bench import cpu_models, cpu_only
from hetsched.cli import main
from tests.conftest import tiny_moe
from tests.documents import document_of


@pytest.fixture
def one_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_only, "subjects", lambda: [cpu_models.Subject("tiny", "fp32", tiny_moe)])
    monkeypatch.setattr(cpu_only, "PHASES", (("decode", 1), ("prefill", 24)))
    monkeypatch.setattr(cpu_only, "MAX_ROUNDS", 3)


def test_json_has_a_row_for_each_phase(one_tiny_model: None, capsys: pytest.CaptureFixture[str]) -> None:
    """The promised keys; ratios lie within their ranges and seconds are positive."""
    assert main(["bench", "--cpu-only", "--json"]) == 0
    document = document_of(capsys.readouterr().out)
    assert document["schema"] == "hetsched-bench-cpu/1"
    assert [(row["phase"], row["tokens"]) for row in document["rows"]] == [("decode", 1), ("prefill", 24)]
    for row in document["rows"]:
        assert row["cpu_kernel"] == "eager"
        assert min(row["eager_s"], row["grouped_mm_s"], row["hetsched_s"]) > 0
        for rival in ("eager", "grouped_mm"):
            low, high = row[f"range_{rival}"]
            assert low <= row[f"ratio_{rival}"] <= high


def test_each_way_computes_with_its_own_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    """eager and grouped_mm really are what transformers runs, and a decode step really decodes, from 16 tokens."""
    from transformers.integrations import moe

    model, called = tiny_moe(), []

    def grouped(*args: Any) -> Any:
        called.append("grouped_mm")
        return moe.grouped_mm_experts_forward(*args)

    monkeypatch.setitem(moe.ALL_EXPERTS_FUNCTIONS._local_mapping, "grouped_mm", grouped)
    lengths: list[tuple[int, int]] = []

    def note(_: Any, args: Any, kwargs: Any) -> None:
        cache = kwargs.get("past_key_values")
        lengths.append((kwargs["input_ids"].shape[1], cache.get_seq_length() if cache else 0))

    model.register_forward_pre_hook(note, with_kwargs=True)
    for name in ("eager", "grouped_mm"):
        step = cpu_only._forward(model, name, "decode", 1)
        step()
        step()
        assert called == ([] if name == "eager" else ["grouped_mm"] * 9)
    assert lengths == [(16, 0), (1, 16), (1, 16)] * 2


def test_random_models_are_the_same_every_time() -> None:
    """Two copies of a subject have equal weights, so that all ways do the same work."""
    one, two = (cpu_models.random_qwen3_moe("bf16", experts=8, hidden=64, ffn=32) for _ in range(2))
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert a.equal(b), name
