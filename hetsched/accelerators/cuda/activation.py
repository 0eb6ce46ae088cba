"""What stands between an expert's two products, found by trying the module's own. Shapes: P pairs, F ffn."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from .source import SIGMOID_CLAMPED, SILU, SILU_CLAMPED


class Activation(NamedTuple):
    """A kind of cuda_source and its constants. `turns`: gate and up take turns, else gate comes first."""

    kind: int
    alpha: float = 1.0
    limit: float = 0.0
    turns: bool = False


def activation_of(module: Any) -> Activation | None:
    """The activation that a module's own gate computes, found by trying it; None: not one of the kernels'."""
    if not module.has_gate or module.has_post_expert_norm:
        return None
    sample_PF = torch.linspace(-30.0, 30.0, 8 * 62).reshape(62, 8).T.contiguous()
    with torch.no_grad():
        try:
            expected_PF = module._apply_gate(sample_PF)
        except (RuntimeError, TypeError, ValueError):
            return None  # parameters of its own, on another device or of another shape
    limit = next((float(v) for name in ("limit", "swiglu_limit") if (v := getattr(module, name, None)) is not None), 0)
    alpha = next((float(v) for name in ("alpha", "swiglu_alpha") if (v := getattr(module, name, None)) is not None), 1)
    kinds = Activation(SILU), Activation(SILU_CLAMPED, limit=limit), Activation(SIGMOID_CLAMPED, alpha, limit)
    for activation in (kind._replace(turns=turns) for turns in (False, True) for kind in kinds):
        found_PF = reference(activation, sample_PF)
        if found_PF.shape == expected_PF.shape and torch.allclose(found_PF, expected_PF, rtol=1e-5, atol=1e-6):
            return activation
    return None


def reference(activation: Activation, gate_up: torch.Tensor) -> torch.Tensor:
    """The same activation by torch: [P, 2F] to [P, F]."""
    gate, up = (gate_up[..., ::2], gate_up[..., 1::2]) if activation.turns else gate_up.chunk(2, dim=-1)
    if activation.kind:
        gate, up = gate.clamp(max=activation.limit), up.clamp(-activation.limit, activation.limit)
    if activation.kind == SIGMOID_CLAMPED:
        return (up + 1.0) * (gate * torch.sigmoid(gate * activation.alpha))
    return F.silu(gate) * up
