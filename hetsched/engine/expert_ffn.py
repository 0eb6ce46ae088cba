"""One expert's FFN as transformers computes it, from the traits of the expert module and one expert's weights.

Shapes: T tokens routed to the expert, H hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F

Linear: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Arithmetic:
    """Where an eager forward rounds; the same in fp32, different bits in half precision.

    `compute`: dtype of everything inside an expert, None for what the operands have. `accumulate`: dtype of the sum
    over experts: that of the "hidden" states, of the "router" weights, or "float32".
    """

    compute: torch.dtype | None = None
    accumulate: str = "hidden"

    def sum_dtype(self, hidden: torch.Tensor, router_weights: torch.Tensor) -> torch.dtype:
        """Dtype in which one layer's contributions are added."""
        return {"hidden": hidden.dtype, "router": router_weights.dtype, "float32": torch.float32}[self.accumulate]


PLAIN = Arithmetic()


def expert_ffn(
    module: Any,
    weights: Mapping[str, torch.Tensor],
    hidden_TH: torch.Tensor,
    linear: Linear = F.linear,
    compute: torch.dtype | None = None,
) -> torch.Tensor:
    """down(act(gate(x)) * up(x)), with the operations and their order of the module's eager forward: [T, H].

    `linear(x, weight)` takes the place of torch's where the weights are neither transposed nor biased. `compute`: as
    in Arithmetic.
    """
    if compute is not None:
        hidden_TH = hidden_TH.to(compute)
        weights = {name: weight.to(compute) for name, weight in weights.items()}
    up = "gate_up_proj" if module.has_gate else "up_proj"
    projected = _project(module, hidden_TH, weights[up], weights.get(f"{up}_bias"), linear)
    activated = module._apply_gate(projected) if module.has_gate else module.act_fn(projected)
    out_TH = _project(module, activated, weights["down_proj"], weights.get("down_proj_bias"), linear)
    normed: torch.Tensor = module.post_expert_norm(out_TH) if module.has_post_expert_norm else out_TH
    return normed


def _project(
    module: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, linear: Linear
) -> torch.Tensor:
    if module.is_transposed:
        product = x @ weight
        return product if bias is None else product + bias
    return linear(x, weight) if bias is None else F.linear(x, weight, bias)
