"""What these tests share: one tiny model, ways to generate, and what came out, bit for bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from hetsched.integrations.attachment import Attachment
from hetsched.machine import gallery
from hetsched.types import Demand, Phase

# Both lanes work, and copies move.
EMULATED: dict[str, Any] = {
    "hardware": gallery.machine("rtx-4060-laptop-8gb"),  # reading its file takes longer than a test
    "time_scale": 1.0,
    "gpu_memory": "40%",
    "policy": "hybrimoe",
}
HERE: dict[str, Any] = {"hardware": "cpu", "cpu_kernel": "eager"}
PADDED = torch.tensor([[0, 0, 0, 5, 6, 7, 8], [3, 4, 5, 6, 7, 8, 9], [0, 11, 12, 13, 14, 15, 16]])
ALONE = torch.arange(3, 15)[None]
REPEATED = torch.tensor([[9, 8, 7] * 4])

Output = tuple[torch.Tensor, torch.Tensor]


def generated(model: Any, ids: torch.Tensor = PADDED, new_tokens: int = 4, **options: Any) -> Output:
    """Sequences and logits; pad tokens are masked, and chance begins anew."""
    torch.manual_seed(5)
    found = model.generate(
        ids,
        attention_mask=(ids != 0).long(),
        output_logits=True,
        return_dict_in_generate=True,
        **{"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0, "eos_token_id": None} | options,
    )
    return found.sequences, torch.stack(found.logits)


def same(ours: Output, eager: Output) -> bool:
    """Whether every token and every bit of every logit agrees."""
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(ours, eager, strict=True))


@contextlib.contextmanager
def passes(handle: Attachment) -> Iterator[list[tuple[Phase, int]]]:
    """Phase and tokens of every forward pass, padding counted, as the scheduler was told."""
    seen: list[tuple[Phase, int]] = []
    scheduler, step = handle.scheduler, handle.scheduler.step

    def told(demand: Demand, *rest: Any) -> Any:
        if demand.layer == 0:
            seen.append((demand.phase, demand.num_tokens))
        return step(demand, *rest)

    scheduler.step = told  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        scheduler.step = step  # type: ignore[method-assign]
