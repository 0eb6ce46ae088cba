"""A prompt of thousands of tokens in chunks: an expert is copied at most once a chunk, and memory is bounded."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import pytest
import torch

import hetsched
from hetsched.engine import executor
from hetsched.integrations.attachment import Attachment
from hetsched.types import ExpertId, Phase
from tests.conftest import tiny_moe

from .generating import generated, same

CHUNK, CHUNKS, BATCH, EXPERTS, TOP_K, HIDDEN = 512, 4, 2, 16, 4, 32
# An expert takes the time of a real one; otherwise no copy of these tiny ones would pay.
MACHINE: dict[str, Any] = {
    "hardware": "rtx-4060-laptop-8gb",
    "time_scale": 1.0,
    "gpu_memory": "50%",
    "stand_in_for": "qwen3-30b-a3b",
}


def prompt() -> torch.Tensor:
    """Two sequences, the first with 700 pad tokens before it."""
    ids = torch.randint(3, 128, (BATCH, CHUNKS * CHUNK), generator=torch.Generator().manual_seed(0))
    ids[0, :700] = 0
    return ids


def watch(handle: Attachment) -> list[tuple[Phase, int, int, list[ExpertId]]]:
    """Phase, step and tokens of every layer, with all that was copied in it, demanded or not."""
    seen: list[tuple[Phase, int, int, list[ExpertId]]] = []
    scheduler, step, prefetch = handle.scheduler, handle.scheduler.step, handle.scheduler.prefetch

    def stepped(demand: Any, *rest: Any) -> Any:
        plan = step(demand, *rest)
        seen.append((demand.phase, demand.step, demand.num_tokens, [fetch.expert for fetch in plan.fetches]))
        return plan

    def prefetched(*rest: Any) -> Any:
        copies = prefetch(*rest)
        seen[-1][3].extend(fetch.expert for fetch in copies.fetches)
        return copies

    scheduler.step, scheduler.prefetch = stepped, prefetched  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("policy", ["hybrimoe", "on-demand-lru", "layer-stream"])
def test_an_expert_is_copied_once_a_chunk(policy: str) -> None:
    """Not once a token: as many copies for a chunk of 1024 tokens as its layers have experts, at most."""
    model, ids = tiny_moe(layers=2, experts=EXPERTS), prompt()
    options = {"prefill_chunk_size": CHUNK, "new_tokens": 2}
    eager = generated(model, ids, **options)
    with hetsched.attach(model, **MACHINE, policy=policy) as handle:
        seen = watch(handle)
        assert same(generated(model, ids, **options), eager)
    chunks = [layer for layer in seen if layer[0] is Phase.PREFILL]
    assert [tokens for _, _, tokens, _ in chunks] == [BATCH * CHUNK] * (2 * CHUNKS)
    copies = Counter((step, expert) for _, step, _, fetched in chunks for expert in fetched)
    assert copies
    assert max(copies.values()) == 1


@pytest.mark.parametrize(("chunk", "options"), [(CHUNK, {}), (CHUNKS * CHUNK, {}), (CHUNK, {"policy": "cpu-only"})])
def test_memory_beside_the_model_is_bounded_by_the_chunk(
    monkeypatch: pytest.MonkeyPatch, chunk: int, options: dict[str, Any]
) -> None:
    """Experts' results wait until all are added: tokens x top-k x hidden; no other of them is alive."""
    model, ids = tiny_moe(layers=2, experts=EXPERTS), prompt()
    alive: dict[int, int] = {}
    peaks: list[int] = []

    def seen(made: torch.Tensor) -> torch.Tensor:
        alive[id(made)] = made.nbytes
        weakref.finalize(made, alive.pop, id(made), None)
        peaks.append(sum(alive.values()))
        return made

    def one(*args: Any, inner: Any = executor.expert_ffn) -> torch.Tensor:
        return seen(inner(*args))

    monkeypatch.setattr(executor, "expert_ffn", one)
    with hetsched.attach(model, **MACHINE | options):
        generated(model, ids, prefill_chunk_size=chunk, new_tokens=1)
    whole = BATCH * chunk * TOP_K * HIDDEN * 4
    assert max(peaks) == whole
    assert not alive
