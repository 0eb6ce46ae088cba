"""One expert's FFN as transformers computes it, from the traits of the expert module and one expert's weights.

Shapes: T tokens routed to the expert, H hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import InputError

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


def expert_ffn(module: Any, weights: Mapping[str, torch.Tensor], hidden_TH: torch.Tensor) -> torch.Tensor:
    """down(act(gate(x)) * up(x)), with the operations and their order of the module's eager forward: [T, H]."""
    up = "gate_up_proj" if module.has_gate else "up_proj"
    projected = _linear(module, hidden_TH, weights[up], weights.get(f"{up}_bias"))
    activated = module._apply_gate(projected) if module.has_gate else module.act_fn(projected)
    out_TH = _linear(module, activated, weights["down_proj"], weights.get("down_proj_bias"))
    normed: torch.Tensor = module.post_expert_norm(out_TH) if module.has_post_expert_norm else out_TH
    return normed


def _linear(module: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if not module.is_transposed:
        return F.linear(x, weight, bias)
    product = x @ weight
    return product if bias is None else product + bias
