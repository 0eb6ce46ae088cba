"""Speculation in transformers' generate: the same greedy tokens, whoever drafts and however many.

Models are fp32 with eager's arithmetic: there a step of several tokens gives the tokens of single ones, though a matrix
product of several rows may round otherwise than of one, so that logits are compared within a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import hetsched
from hetsched.errors import InputError
from hetsched.integrations.drafters import looked_up
from hetsched.integrations.fewer_experts import FewerExperts
from hetsched.integrations.speculation import K_MAX
from hetsched.testing.models import tiny_moe
from hetsched.types import Phase
from tests.generation.generating import EMULATED, HERE, REPEATED, passes

NEW_TOKENS = 12
SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts_per_tok": 2,
    "initializer_range": 0.3,
    "experts_implementation": "eager",
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def qwen3() -> Any:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, num_experts=8, moe_intermediate_size=24)).eval()


def mixtral() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=8)).eval()


def gpt_oss() -> Any:
    """With sliding windows shorter than the text, so that drafts are taken back from full ones."""
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(0)
    return GptOssForCausalLM(GptOssConfig(**SIZES, num_local_experts=8, sliding_window=8)).eval()


def text(model: Any, ids: torch.Tensor = REPEATED, **options: Any) -> tuple[list[int], torch.Tensor]:
    """Tokens and logits; chance begins anew."""
    torch.manual_seed(5)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    out = model.generate(
        ids,
        attention_mask=(ids != 0).long(),
        return_dict_in_generate=True,
        output_logits=True,
        **settings | options,
    )
    return out.sequences[0].tolist(), torch.stack(out.logits)


@pytest.mark.parametrize("build", [tiny_moe, qwen3, mixtral, gpt_oss])
@pytest.mark.parametrize("draft", ["prompt-lookup", "self", "model"])
def test_greedy_text_is_the_same(build: Callable[[], Any], draft: str) -> None:
    model = build()
    tokens, logits = text(model)
    with hetsched.attach(model, **EMULATED) as handle:
        for k in ("off", 1, 4, "auto"):
            with handle.speculate(tiny_moe(layers=2) if draft == "model" else draft, k) as speculation:
                ours, our_logits = text(model)
            assert ours == tokens
            torch.testing.assert_close(our_logits, logits, rtol=1e-4, atol=1e-4)
            facts = speculation.stats()
            assert facts["steps"] + facts["accepted"] == NEW_TOKENS - 1  # the prompt's own step gave the first
            assert (facts["drafted"] > 0) or k in ("off", "auto") or draft == "prompt-lookup"
        handle.scheduler.residency.check()
        assert text(model)[0] == tokens
    assert "generate" not in model.__dict__


def test_a_perfect_draft_is_wholly_accepted() -> None:
    """The same model drafts: every draft stays, and steps verify all of them at once."""
    model, twin = tiny_moe(), tiny_moe()
    tokens, _ = text(model)
    with (
        hetsched.attach(model, **EMULATED) as handle,
        passes(handle) as seen,
        handle.speculate(twin, 3) as speculation,
    ):
        assert text(model)[0] == tokens
    facts = speculation.stats()
    assert facts["acceptance"] == 1.0
    assert facts["accepted"] == facts["drafted"] == NEW_TOKENS - 1 - facts["steps"]
    assert seen[:3] == [(Phase.PREFILL, 12), (Phase.VERIFY, 4), (Phase.VERIFY, 4)]


def test_drafts_of_the_model_itself_are_lighter_and_leave_no_trace() -> None:
    """Draft passes ask for fewer experts than the model chooses, and its cache is as long as without them."""
    model = tiny_moe()
    with hetsched.attach(model, **EMULATED) as handle:
        active: dict[Phase, set[int]] = {phase: set() for phase in Phase}
        scheduler: Any = handle.scheduler
        step = scheduler.step

        def told(demand: Any, *rest: Any) -> Any:
            active[demand.phase].add(len(demand.active))
            return step(demand, *rest)

        scheduler.step = told
        with handle.speculate("self", 2) as speculation:
            text(model)
        assert handle.fewer is None
    assert max(active[Phase.DECODE] - {4}) < 4
    assert speculation.stats()["draft_s"] > 0


def test_an_attached_draft_model_takes_its_own_machines_time() -> None:
    model, draft = tiny_moe(), tiny_moe(layers=2)
    with hetsched.attach(model, **EMULATED) as handle, hetsched.attach(draft, **EMULATED) as other:
        with handle.speculate(draft, 2) as speculation:
            text(model)
        assert 0 < speculation.stats()["draft_s"] < other.stats()["total_s"] * 1.5
        assert other.stats()["steps"] > 0


def test_without_an_accelerator_too() -> None:
    model = tiny_moe()
    tokens, _ = text(model)
    with hetsched.attach(model, **HERE) as handle:
        for draft in ("prompt-lookup", "self"):
            with handle.speculate(draft, 3) as speculation:
                assert text(model)[0] == tokens
            assert speculation.stats()["step_s"] > 0


def test_sampled_text_is_transformers_own_sample() -> None:
    """With sampling a draft stays where the sample is that token: draws are made as without speculation, in order."""
    model = tiny_moe()
    settings: dict[str, Any] = {"do_sample": True, "top_k": 5, "temperature": 0.8}
    with hetsched.attach(model, **EMULATED) as handle:
        plain, _ = text(model, **settings)
        with handle.speculate("self", "off"):
            assert text(model, **settings)[0] == plain
        with handle.speculate("self", 3) as speculation:
            sampled, _ = text(model, **settings)
    assert len(sampled) == len(plain)
    assert speculation.stats()["drafted"] > 0


def test_padding_processors_ends_and_streams() -> None:
    """Left padding, a repetition penalty, an end token among the drafts, and a streamer."""
    model, said = tiny_moe(), []

    class Streamer:
        def put(self, value: torch.Tensor) -> None:
            said.extend(value.reshape(-1).tolist())

        def end(self) -> None:
            said.append(None)

    padded = torch.cat([torch.zeros((1, 3), dtype=torch.long), REPEATED], dim=1)
    plain = text(model, padded, repetition_penalty=1.3)[0]
    end = plain[padded.shape[1] + 7]
    ended = text(model, padded, repetition_penalty=1.3, eos_token_id=end)[0]
    with hetsched.attach(model, **EMULATED) as handle:
        for draft in ("prompt-lookup", "self", tiny_moe()):
            with handle.speculate(draft, 4):
                assert text(model, padded, repetition_penalty=1.3)[0] == plain
                assert text(model, padded, repetition_penalty=1.3, eos_token_id=end)[0] == ended
        with handle.speculate("self", 4):
            out = model.generate(REPEATED, max_new_tokens=6, do_sample=False, streamer=Streamer(), pad_token_id=0)
    assert said == [*out[0].tolist(), None]


def test_drafts_are_told_before_they_are_verified() -> None:
    model, told = tiny_moe(), []
    with (
        hetsched.attach(model, **EMULATED) as handle,
        passes(handle) as seen,
        handle.speculate(tiny_moe(), 2, told=lambda ids: told.append((ids, len(seen)))),
    ):
        tokens, _ = text(model)
    assert told[0] == (tokens[13:15], 1)
    assert [len(ids) for ids, _ in told[:3]] == [2, 2, 2]


def test_a_forecaster_learns_of_drafts_as_far_as_they_may_stay() -> None:
    """The engine's demands say so in passes that verify drafts, and in no other."""
    model, kept = tiny_moe(), []
    with hetsched.attach(model, **EMULATED) as handle, handle.speculate("self", 2):
        plain = handle.scheduler.step
        handle.scheduler.step = lambda demand, link: (
            kept.append((demand.num_tokens, demand.num_kept)),
            plain(demand, link),
        )[1]
        text(model)
    assert all(stay == tokens for tokens, stay in kept if tokens == 1 or tokens > 3)
    verified = [(tokens, stay) for tokens, stay in kept if 1 < tokens <= 3]
    assert verified
    assert all(1.0 < stay < tokens for tokens, stay in verified)


def test_auto_never_drafts_more_than_it_may() -> None:
    model = tiny_moe()
    with hetsched.attach(model, **EMULATED) as handle:
        with handle.speculate(tiny_moe(), "auto") as speculation:
            text(model, max_new_tokens=60)
        facts = speculation.stats()
        assert 0 < facts["drafted"] <= K_MAX * facts["steps"]
        assert facts["k"] == "auto"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"num_beams": 2}, "beams"),
    ({"use_cache": False}, "use_cache=False"),
    ({"cache_implementation": "static"}, "a static cache"),
    ({"assistant_model": "any"}, "beside handle.speculate"),
]


@pytest.mark.parametrize(("options", "why"), REFUSED)
def test_ways_that_take_no_drafts_are_refused(options: dict[str, Any], why: str) -> None:
    model = tiny_moe()
    with hetsched.attach(model, **EMULATED) as handle, handle.speculate():
        with pytest.raises(InputError, match=why):
            text(model, **options)
        with pytest.raises(InputError, match="several sequences"):
            model.generate(torch.cat([REPEATED, REPEATED]), max_new_tokens=2, pad_token_id=0)
    assert "generate" not in model.__dict__


def test_what_cannot_draft_is_refused() -> None:
    from transformers import Qwen2MoeForCausalLM

    model = tiny_moe()
    config = tiny_moe().config
    config.vocab_size = 64
    with hetsched.attach(model, **EMULATED) as handle:
        for draft, k, why in (
            ("oracle", 1, "no model with generate"),
            (Qwen2MoeForCausalLM(config), 1, "64 tokens"),
            (object(), 1, "no model with generate"),
            ("self", -1, "neither"),
            ("self", 64, "from 0 to 63"),
            ("self", "many", "neither"),
        ):
            with pytest.raises(InputError, match=why):
                handle.speculate(draft, k)
        with handle.speculate(), pytest.raises(InputError, match="replaced already"), handle.speculate("self"):
            pass
        late = handle.speculate()
    for enter in (handle.speculate, late.__enter__):
        with pytest.raises(InputError, match="was detached"):
            enter()
    assert "generate" not in model.__dict__


def test_the_prompt_is_looked_up() -> None:
    assert looked_up([1, 2, 3, 4, 1, 2, 3], 2) == [4, 1]
    assert looked_up([5, 2, 3, 9, 2, 3, 8, 2, 3], 1) == [8]  # the latest of two
    assert looked_up([1, 2, 3], 4) == []
    assert looked_up([7, 7, 7, 7], 3) == [7]


def test_fewer_experts_keep_the_sum_of_weights() -> None:
    from hetsched.residency import Residency
    from hetsched.types import ExpertId

    ids_TK, weights_TK = torch.tensor([[3, 1, 2], [0, 4, 5]]), torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    few_TK, kept_TK = FewerExperts(1, None).of(0, 6, ids_TK, weights_TK)
    assert few_TK.tolist() == [[3, 6, 6], [6, 4, 6]]
    torch.testing.assert_close(kept_TK.sum(-1), weights_TK.sum(-1))
    handle_tokens = Residency(1, 6, 2, _board(1, 6))
    handle_tokens.fill([ExpertId(0, 1), ExpertId(0, 2)])
    there_TK, weighed_TK = FewerExperts(None, handle_tokens).of(0, 6, ids_TK, weights_TK)
    assert there_TK.tolist() == [[6, 1, 2], [6, 4, 6]]  # nobody of the second token's is there: its best one
    torch.testing.assert_close(weighed_TK, torch.tensor([[0.0, 0.6, 0.4], [0.0, 1.0, 0.0]]))


def _board(layers: int, experts: int) -> Any:
    from hetsched import board

    return board.open_board(*board.new_board(layers, experts, 2))
