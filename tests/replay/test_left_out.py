"""Whole tokens: what a replay of layers with experts leaves out, by hand, and the same for every strategy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hetsched.estimate.subject import subject_held
from hetsched.geometry import from_config
from hetsched.machine.drift import Drift, TrueMachine
from hetsched.machine.gallery import machine
from hetsched.replay import AUTO, compare, compare_speculation, replay_one
from hetsched.replay.left_out import LeftOut
from hetsched.replay.read_back import comparison_from
from hetsched.replay.steps import Steps, contexts
from hetsched.replay.study import Study
from hetsched.types import Phase
from tests.replay.compare_made import CONFIG, LAYERS, MACHINE, geometry, model_file, random_trace

HERE = machine(MACHINE)
GPU = HERE.gpu
HEAD_BYTES = 2 * CONFIG["vocab_size"] * CONFIG["hidden_size"]
KV_BYTES = 2 * 2 * CONFIG["hidden_size"] * LAYERS  # of a token: keys and values of all heads, 16 bits, all layers
TOKENS, SEQUENCES = 120, 6
ALIKE = {"fit_sequences": 0.5, "decision_s": 2e-5, "bound_windows": 0}


def compared(**options: Any) -> Any:
    asked = {"hardware": [MACHINE], "strategies": "hetsched,layer-split", **ALIKE, **options}
    return compare(random_trace(tokens=TOKENS, sequences=SEQUENCES), geometry(), **asked)


def test_by_hand() -> None:
    """A decoded token reads the head once, and the keys and values of those before it and its own."""
    assert GPU is not None
    contexts_T = np.tile(np.arange(TOKENS // SEQUENCES), SEQUENCES // 2)
    expected_s = (HEAD_BYTES + KV_BYTES * (contexts_T + 1).mean()) / GPU.read_bytes_per_s
    rows = compared(config=CONFIG).rows
    assert [row.left_out_s_per_token for row in rows] == pytest.approx([expected_s] * 2, rel=1e-6)
    for row in rows:
        assert 1 / row.whole_tokens_per_s == pytest.approx(1 / row.tokens_per_s + expected_s)


def test_nothing_else_changes(tmp_path: Any) -> None:
    """Steps, hits and ranks are those of layers with experts; a model that is named knows its config itself."""
    known, unknown = compared(config=CONFIG), compared()
    named = compare(random_trace(), str(model_file(tmp_path)), hardware=[MACHINE], strategies="hetsched", **ALIKE)
    assert named.rows[0].whole_tokens_per_s == known.rows[0].whole_tokens_per_s
    nothing = {"left_out_s_per_token": None, "whole_tokens_per_s": None}
    assert [replace(row, **nothing) for row in known.rows] == unknown.rows
    assert "a whole token has its output head" in " ".join(known.facts["notes"])
    assert "of a model whose other sizes are not known" in " ".join(unknown.facts["notes"])
    assert comparison_from(known.document()).rows == known.rows


def test_layers_without_experts_count() -> None:
    """The first of four layers has a plain feed-forward block, which no replay sees."""
    assert GPU is not None
    config = {**CONFIG, "model_type": "deepseek_v2", "num_hidden_layers": 1 + LAYERS, "first_k_dense_replace": 1}
    config |= {"intermediate_size": 4096}
    with_plain, without = (
        LeftOut(subject, HERE).step_s(1, 0)
        for each in (config, {**config, "num_hidden_layers": LAYERS, "first_k_dense_replace": 0})
        if (subject := subject_held(from_config(each), each)) is not None
    )
    hidden = CONFIG["hidden_size"]
    params = 4 * hidden**2 + 2 * hidden + 3 * hidden * 4096  # attention, two norms, gate, up and down
    more_s = GPU.dense_call_s + (2 * params + KV_BYTES / LAYERS) / GPU.read_bytes_per_s
    assert with_plain - without == pytest.approx(more_s, rel=1e-3)


def test_the_text_before_a_step() -> None:
    """Rejected drafts are no context, and each sequence begins anew."""
    begin_S, end_S = np.array([0, 4, 8, 9]), np.array([4, 8, 9, 11])
    phase_S = np.array([Phase.PREFILL, Phase.VERIFY, Phase.DECODE, Phase.DECODE], np.uint8)
    steps = Steps(begin_S, end_S, phase_S, rejected_S=np.array([0, 3, 0, 0]))
    assert contexts(steps, np.array([True, False, False, False])).tolist() == [0, 4, 5, 6]
    assert contexts(steps, np.array([True, False, True, False])).tolist() == [0, 4, 0, 1]


def test_prompts_are_no_tokens_of_it_but_their_context() -> None:
    trace = random_trace(tokens=20, sequences=1)
    trace.phase_T[:12] = Phase.PREFILL
    study = replace(Study.of(trace, geometry(), [MACHINE], config=CONFIG), **{**ALIKE, "fit_sequences": 0.0})
    row = replay_one(study, "layer-split", 0.25).row
    assert GPU is not None
    expected_s = (HEAD_BYTES + KV_BYTES * (np.arange(12, 20) + 1).mean()) / GPU.read_bytes_per_s
    assert row.left_out_s_per_token == pytest.approx(expected_s, rel=1e-6)


def test_what_is_true_counts_from_the_step_on_at_which_it_changes() -> None:
    """Three of four steps on a GPU that takes twice as long."""
    slower = TrueMachine(HERE, (Drift(15, gpu=2.0),))
    study = replace(Study.of(random_trace(), geometry(), [MACHINE], config=CONFIG), **ALIKE, max_tokens=60)
    usual, drifting = (
        replay_one(replace(study, true_machine=true), "layer-split", 0.25).row.left_out_s_per_token
        for true in (None, slower)
    )
    assert usual is not None
    assert drifting is not None
    assert 1.7 < drifting / usual < 1.8


def test_a_config_without_heads_leaves_it_unknown() -> None:
    for missing in ("num_attention_heads", "vocab_size"):
        config = {name: value for name, value in CONFIG.items() if name != missing}
        assert subject_held(geometry(), config) is None
    assert subject_held(geometry(), {**CONFIG, "layer_types": ["full_attention"]}) is None


def test_drafts_share_a_head() -> None:
    """Steps that verify read it once for all they keep, whoever chose how many there are."""
    asked: dict[str, Any] = {"hardware": [MACHINE], "drafts": (4, AUTO), "strategies": "hetsched", "decision_s": 2e-5}
    found = compare_speculation(random_trace(), geometry(), config=CONFIG, **asked)
    left_out_s = {row.drafts: row.left_out_s_per_token for row in found.rows}
    assert list(left_out_s) == ["4", "auto", ""]
    assert left_out_s["4"] < left_out_s["auto"] < left_out_s[""]
    for row in found.rows:
        assert 1 / row.whole_tokens_per_s == pytest.approx(1 / row.tokens_per_s + row.left_out_s_per_token)
