"""The healing: a few steps of distillation of the dense model into the converted one, end to end.

Shapes: N rows, S positions of a row, B rows of one step, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from hetsched.demo_model.calibration import SEED, Calibration
from hetsched.demo_model.perplexity import head
from hetsched.demo_model.progress import Tick

LEARNING_RATE = 1e-4  # 2e-4 gained less on prose in twice the steps; 6e-4 made prose worse
WARMUP = 4  # steps
ROWS = 4  # rows of one step


def heal(
    dense: Any,
    sparse: Any,
    calibration: Calibration,
    goal_NSH: torch.Tensor,
    steps: int,
    tick: Tick,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Train `sparse` in place for `steps` steps towards the logits of `dense` on the fitting rows.

    `goal_NSH` is the dense model's last residual stream; products are computed in `dtype`. Routers and the embedding
    (tied to the head) stay as they are: routing is a hard choice that passes no gradient, and the head is shared with
    the dense model.
    """
    if not steps:
        return
    sparse.model.embed_tokens.weight.requires_grad_(False)
    weights = [weight for weight in sparse.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, steps))
    order_N = torch.randperm(calibration.fit_rows, generator=torch.Generator().manual_seed(SEED))
    for step in range(steps):
        rows_B = order_N[(torch.arange(ROWS) + step * ROWS) % len(order_N)]
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            with torch.no_grad():
                goal_BSV = head(dense, goal_NSH[rows_B])
            logits_BSV = sparse(calibration.tokens_NS[rows_B], use_cache=False).logits
        distance(logits_BSV.float(), goal_BSV.float()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        tick((step + 1) / steps)


def rate(step: int, steps: int) -> float:
    """Learning rate of a step, as part of the highest: a short rise, then a straight fall to a tenth."""
    rise = min(1.0, (step + 1) / WARMUP)
    return rise * (1.0 - 0.9 * step / steps)


def distance(logits_BSV: torch.Tensor, goal_BSV: torch.Tensor) -> torch.Tensor:
    """Mean Kullback-Leibler divergence of the logits from the goal's, in nats per token."""
    have, goal = (t.flatten(0, 1).log_softmax(-1) for t in (logits_BSV, goal_BSV))
    return functional.kl_div(have, goal, reduction="batchmean", log_target=True)
