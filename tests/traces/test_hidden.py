"""Hidden states in traces: an array that may be there, checked, cut, joined and recorded like the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hetsched.errors import InputError
from hetsched.integrations.recording import record, recording
from hetsched.traces.split import concat, split
from hetsched.traces.trace import load_trace, report, save_trace
from tests.conftest import tiny_moe
from tests.traces.made import made, same
from tests.traces.test_record import GREEDY, PROMPTS


def with_hidden(width: int = 5, seed: int = 0) -> Any:
    """A small trace with hidden states."""
    hidden = np.random.default_rng(seed).normal(size=(40, 3, width)).astype(np.float16)
    return made(hidden_TLH=hidden, seed=seed)


def test_a_trace_with_hidden_states_is_read_as_it_was_saved(tmp_path: Path) -> None:
    save_trace(tmp_path / "t.npz", with_hidden())
    again = load_trace(tmp_path / "t.npz")
    assert same(with_hidden(), again)
    assert again.width == 5
    assert made().width == 0


@pytest.mark.parametrize(
    ("hidden", "wanted"),
    [
        (np.zeros((40, 3, 5)), "hidden is float64"),
        (np.zeros((40, 2, 5), np.float16), "hidden has shape"),
        (np.zeros((40, 3), np.float16), "hidden has shape"),
        (np.full((40, 3, 5), np.inf, np.float16), "not finite: 600, first inf at token 0, layer 0, number 0"),
    ],
)
def test_faults_are_found(tmp_path: Path, hidden: Any, wanted: str) -> None:
    np.savez(tmp_path / "t.npz", **{**made().arrays(), "hidden": hidden})
    assert any(wanted in line for line in report(tmp_path / "t.npz"))


def test_parts_and_joins_keep_them(tmp_path: Path) -> None:
    """Kept where all have them; other widths are other models."""
    whole = with_hidden()
    concat(split(whole, 0.5), tmp_path / "t.npz")
    np.testing.assert_array_equal(load_trace(tmp_path / "t.npz").hidden_TLH, whole.hidden_TLH)
    concat([whole, made()], tmp_path / "some.npz")
    assert load_trace(tmp_path / "some.npz").hidden_TLH is None
    with pytest.raises(InputError, match="width"):
        concat([whole, with_hidden(6)], tmp_path / "other.npz")


def test_what_is_recorded_is_what_the_router_is_given(tmp_path: Path) -> None:
    """The router's own choice follows from it, by its weights; and the ids are those recorded without it."""
    model = tiny_moe()
    with recording(model, hidden=True) as recorder, torch.inference_mode():
        model(input_ids=PROMPTS[0])
    (only,) = recorder.take()
    assert only.hidden_TLH is not None
    gates = [module for name, module in model.named_modules() if name.endswith((".gate", ".router"))]
    assert len(gates) == only.hidden_TLH.shape[1]
    for layer, gate in enumerate(gates):
        logits_TE = torch.from_numpy(only.hidden_TLH[:, layer].astype(np.float32)) @ gate.weight.T
        chosen_TK = logits_TE.topk(only.experts_TLK.shape[2]).indices.sort().values.numpy()
        np.testing.assert_array_equal(np.sort(only.experts_TLK[:, layer], axis=1), chosen_TK)
    record(model, PROMPTS, tmp_path / "with.npz", {}, generate=GREEDY, hidden=True)
    record(model, PROMPTS, tmp_path / "without.npz", {}, generate=GREEDY)
    seen, plain = load_trace(tmp_path / "with.npz"), load_trace(tmp_path / "without.npz")
    np.testing.assert_array_equal(seen.experts_TLK, plain.experts_TLK)
    assert (seen.width, plain.width) == (model.config.hidden_size, 0)
