"""One expert's FFN as transformers computes it, from the traits of the expert module and one expert's weights.

Shapes: T tokens routed to the expert, H hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F

from ..errors import InputError

Linear: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
TRAITS = ("has_gate", "has_bias", "is_transposed", "has_post_expert_norm", "num_experts")


def parameter_names(module: Any) -> list[str]:
    """Names of the stacked parameters [E, ...] that one expert's weights are slices of.

    Raises InputError naming what is missing.
    """
    missing = [trait for trait in TRAITS if not hasattr(module, trait)]
    up = "gate_up_proj" if getattr(module, "has_gate", True) else "up_proj"
    names = [up, "down_proj"]
    if getattr(module, "has_bias", False):
        names += [f"{name}_bias" for name in names]
    missing += [name for name in names if getattr(module, name, None) is None]
    if missing:
        raise InputError(f"{type(module).__name__} lacks {', '.join(missing)}; this expert class is not supported")
    return names


def expert_ffn(
    module: Any, weights: Mapping[str, torch.Tensor], hidden_TH: torch.Tensor, linear: Linear = F.linear
) -> torch.Tensor:
    """down(act(gate(x)) * up(x)), with the operations and their order of the module's eager forward: [T, H].

    `linear(x, weight)` takes the place of torch's where the weights are neither transposed nor biased.
    """
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
