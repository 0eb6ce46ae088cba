"""Recording: the ids that the model itself reports, phases and steps, and resumption at the last whole sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hetsched
from hetsched.errors import InputError
from hetsched.integrations.recording import Pass, kept_drafts, layer_numbers, record, recording
from hetsched.traces.prompts import digest, read_prompts
from hetsched.traces.trace import load_trace
from hetsched.traces.verified import text_of
from hetsched.types import Phase
from tests.conftest import tiny_moe
from tests.traces.made import same

PROMPTS = [torch.tensor([[3, 4, 5, 6, 7]]), torch.tensor([[9, 8, 9, 8, 9, 8, 9]]), torch.tensor([[11, 12]])]
GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def tiny_qwen3() -> Any:
    """A random Qwen3-MoE whose first layer has no experts."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(1)
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=6,
        num_experts_per_tok=2,
        mlp_only_layers=[0],
        initializer_range=0.3,
    )
    return Qwen3MoeForCausalLM(config).eval()


@pytest.mark.parametrize("build", [tiny_moe, tiny_qwen3])
def test_ids_are_those_of_the_router(build: Any) -> None:
    """The top-k of the router logits that transformers returns, by itself, for the same pass."""
    model = build()
    top_k = model.config.num_experts_per_tok
    with recording(model) as recorder, torch.inference_mode():
        seen = model(input_ids=PROMPTS[0], output_router_logits=True)
        unhooked_logits = seen.logits
    (only,) = recorder.take()
    assert only.phase is Phase.PREFILL
    for layer, logits_TE in enumerate(seen.router_logits):
        ids_TK = logits_TE.softmax(-1).topk(top_k).indices.sort().values.numpy()
        np.testing.assert_array_equal(np.sort(only.experts_TLK[:, layer], axis=1), ids_TK)
    assert ((only.weights_TLK > 0) & (only.weights_TLK <= 1)).all()
    with torch.inference_mode():
        assert torch.equal(model(input_ids=PROMPTS[0]).logits, unhooked_logits)
    assert recorder.take() == []  # the hooks are gone


def test_layers_have_the_models_own_numbers() -> None:
    assert layer_numbers(tiny_moe()) == [0, 1, 2]
    assert layer_numbers(tiny_qwen3()) == [1, 2]


def test_a_generation_is_recorded_with_phases_and_boundaries(tmp_path: Path) -> None:
    """Greedy: one prefill of the prompt, then a decode step for each new token but the last."""
    meta = record(tiny_qwen3(), PROMPTS, tmp_path / "t.npz", {"a": 1}, generate=GREEDY, meta={"model": "tiny"})
    trace = load_trace(tmp_path / "t.npz")
    assert trace.meta == meta
    assert (meta["model"], meta["layers"], meta["recorded"]) == ("tiny", [1, 2], {"a": 1})
    prompts = [ids.shape[1] for ids in PROMPTS]
    assert np.bincount(trace.sequence_T).tolist() == [n + 5 for n in prompts]
    phases = np.concatenate([[0] * n + [1] * 5 for n in prompts])
    np.testing.assert_array_equal(trace.phase_T, phases)
    assert trace.step_T is not None
    assert np.bincount(trace.step_T).tolist() == [length for n in prompts for length in (n, 1, 1, 1, 1, 1)]
    assert trace.weights_TLK is not None


def test_an_attached_model_is_recorded_alike(tmp_path: Path) -> None:
    """hetsched runs the experts: the same ids, and the same tokens, as without it."""
    record(tiny_moe(), PROMPTS, tmp_path / "plain.npz", {}, generate=GREEDY)
    model = tiny_moe()
    with hetsched.attach(model, hardware="rtx-4060-laptop-8gb", gpu_memory="25%", time_scale=1.0):
        record(model, PROMPTS, tmp_path / "attached.npz", {}, generate=GREEDY)
    assert same(load_trace(tmp_path / "plain.npz"), load_trace(tmp_path / "attached.npz"))


def test_speculation_is_recorded_as_verify_steps(tmp_path: Path) -> None:
    """Prompt lookup: steps of up to 1 + K tokens after the prompt, and the sequence's accepted tokens among them."""
    options = {**GREEDY, "max_new_tokens": 12, "prompt_lookup_num_tokens": 3}
    record(tiny_moe(), PROMPTS[1:2], tmp_path / "t.npz", {}, generate=options)
    trace = load_trace(tmp_path / "t.npz")
    assert trace.step_T is not None
    lengths = np.bincount(trace.step_T)
    phase_of_step = [set(trace.phase_T[trace.step_T == step].tolist()) for step in range(len(lengths))]
    assert phase_of_step[0] == {int(Phase.PREFILL)}
    for length, phases in zip(lengths[1:], phase_of_step[1:], strict=True):
        assert phases == {int(Phase.DECODE) if length == 1 else int(Phase.VERIFY)}
        assert length <= 4
    assert Phase.VERIFY in trace.phase_T


@pytest.mark.parametrize("build", [tiny_moe, tiny_qwen3])
@pytest.mark.parametrize("stop", [{}, {"eos_token_id": 9}, {"max_new_tokens": 7}])
def test_which_drafts_stayed_is_what_transformers_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Any, stop: dict[str, Any]
) -> None:
    """Its own count of matches after every pass; and the text left over is routed as a run without drafts routes it."""
    from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

    matches: list[int] = []

    def told(_self: Any, _ids: Any, _scores: Any, num_matches: Any) -> None:
        matches.append(int(num_matches))

    monkeypatch.setattr(PromptLookupCandidateGenerator, "update_candidate_strategy", told)
    options = {**GREEDY, "max_new_tokens": 30, **stop}
    model = build()
    record(model, PROMPTS, tmp_path / "t.npz", {}, generate={**options, "prompt_lookup_num_tokens": 3})
    record(model, PROMPTS, tmp_path / "plain.npz", {}, generate=options)
    trace, plain = load_trace(tmp_path / "t.npz"), load_trace(tmp_path / "plain.npz")
    assert trace.kept_T is not None
    assert trace.step_T is not None
    kept_S = np.bincount(trace.step_T, trace.kept_T).astype(int)
    firsts = np.searchsorted(trace.step_T, np.arange(len(kept_S)))
    begins = np.diff(trace.sequence_T[firsts], prepend=-1) != 0
    prompt_S = np.where(begins, [PROMPTS[i].shape[1] for i in trace.sequence_T[firsts]], 1)
    assert (kept_S - prompt_S).tolist() == matches
    assert sum(matches) > 0
    assert (trace.kept_T == 0).any()
    text = text_of(trace)
    np.testing.assert_array_equal(text.sequence_T, plain.sequence_T)
    np.testing.assert_array_equal(np.sort(text.experts_TLK, axis=2), np.sort(plain.experts_TLK, axis=2))
    assert plain.kept_T is None


def test_places_that_tell_nothing_are_refused() -> None:
    """A cache that knows no length would have every pass begin at 0."""
    row = np.zeros((3, 1, 1), np.int16)
    passes = [Pass(row, row.astype(np.float16), Phase.VERIFY, None, place) for place in (0, 2, 5)]
    assert kept_drafts(passes, 7).tolist() == [1, 1, 0, 1, 1, 1, 1, 0, 0]
    with pytest.raises(InputError, match="trace speculate"):
        kept_drafts([p._replace(place=0) for p in passes], 7)


@pytest.mark.parametrize("dying_sequence", [0, 1, 2])
def test_a_crash_loses_the_sequence_it_hit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying_sequence: int
) -> None:
    """The second run generates only what is missing, and the file is that of an undisturbed run."""
    record(tiny_moe(), PROMPTS, tmp_path / "whole.npz", {"a": 1}, generate=GREEDY)
    model, path = tiny_moe(), tmp_path / "t.npz"
    generate, calls = model.generate, []

    def dies(ids: torch.Tensor, **options: Any) -> Any:
        calls.append(ids.shape[1])
        if len(calls) == dying_sequence + 1:
            generate(ids, **{**options, "max_new_tokens": 2})
            raise MemoryError
        return generate(ids, **options)

    monkeypatch.setattr(model, "generate", dies)
    with pytest.raises(MemoryError):
        record(model, PROMPTS, path, {"a": 1}, generate=GREEDY)
    assert not path.exists()
    if dying_sequence:
        with pytest.raises(InputError, match="other arguments"):
            record(model, PROMPTS, path, {"a": 2}, generate=GREEDY)
    done: list[int] = []
    record(model, PROMPTS, path, {"a": 1}, generate=GREEDY, progress=lambda count, tokens: done.append(count))
    assert done == list(range(dying_sequence, 4))
    assert len(calls) == 4
    assert path.read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_batches_are_refused() -> None:
    model = tiny_moe()
    with recording(model), pytest.raises(InputError, match="batch of 2"):
        model(input_ids=torch.tensor([[1, 2], [3, 4]]))


def test_prompt_files(tmp_path: Path) -> None:
    """Text lines and JSONL; what is wrong is named with its line."""
    (tmp_path / "p.txt").write_text("one\n\n two \n")
    assert read_prompts(tmp_path / "p.txt") == ["one", "two"]
    (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two", "id": 3}\n')
    assert read_prompts(tmp_path / "p.jsonl") == ["one", "two"]
    assert digest(["one", "two"]) != digest(["one", "three"])
    (tmp_path / "bad.jsonl").write_text('{"prompt": "one"}\n{"text": "two"}\n')
    with pytest.raises(InputError, match="line 2"):
        read_prompts(tmp_path / "bad.jsonl")
    (tmp_path / "empty.txt").write_text("\n")
    for name in ("empty.txt", "absent.txt"):
        with pytest.raises(InputError, match=name):
            read_prompts(tmp_path / name)
