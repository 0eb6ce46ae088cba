"""Where an expert class rounds, found by running it: the eager forward of a few experts against our own sum.

What cannot be reproduced bit for bit is refused at attach, so that an unknown class is never computed wrongly.
Shapes: E experts, T tokens, K top-k, H hidden.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from ..engine.expert_ffn import PLAIN, Arithmetic, expert_ffn
from ..errors import InputError
from ..packed import parameter_names
from .expert_modules import own_forward

CANDIDATES = (
    PLAIN,
    Arithmetic(accumulate="float32"),
    Arithmetic(accumulate="router"),
    Arithmetic(compute=torch.float32),
    Arithmetic(compute=torch.float32, accumulate="float32"),
    Arithmetic(compute=torch.float32, accumulate="router"),
)
PROBE_EXPERTS, PROBE_TOKENS = 4, 6


def arithmetic_of(module: Any) -> Arithmetic:
    """The first candidate whose bits are those of the module's eager forward, in bf16 and in the module's own dtype.

    Runs at most four of its experts on six tokens. Raises InputError where no candidate agrees.
    """
    own = getattr(module, parameter_names(module)[0]).dtype
    left: tuple[Arithmetic, ...] = CANDIDATES
    with torch.no_grad():
        for hidden_dtype, router_dtype in (
            (own, own),
            (torch.bfloat16, torch.float32),
            (torch.bfloat16, torch.bfloat16),
        ):
            left = tuple(_agreeing(_part_of(module, hidden_dtype), hidden_dtype, router_dtype, left))
    if not left:
        raise InputError(
            f"{type(module).__name__} computes its experts in a way that hetsched does not reproduce bit for bit; "
            "this expert class is not supported"
        )
    return left[0]


def _part_of(module: Any, dtype: torch.dtype) -> Any:
    """A shallow copy with the first few experts only, their weights of another dtype."""
    part = copy.copy(module)
    part.__dict__["_parameters"] = dict(module._parameters)
    part.num_experts = min(module.num_experts, PROBE_EXPERTS)
    for name in parameter_names(module):
        few = getattr(module, name).data[: part.num_experts].to(dtype)
        part._parameters[name] = torch.nn.Parameter(few, requires_grad=False)
    return part


def _agreeing(
    part: Any, hidden_dtype: torch.dtype, router_dtype: torch.dtype, candidates: tuple[Arithmetic, ...]
) -> list[Arithmetic]:
    random = torch.Generator().manual_seed(0)
    inputs = getattr(part, parameter_names(part)[0]).shape[1 if part.is_transposed else 2]
    hidden_TH = torch.randn((PROBE_TOKENS, inputs), generator=random).to(hidden_dtype)
    draws_TE = torch.rand((PROBE_TOKENS, part.num_experts), generator=random)
    ids_TK = draws_TE.argsort(dim=1)[:, :3]
    weights_TK = torch.rand(ids_TK.shape, generator=random).add(0.1).to(router_dtype)
    eager_TH = own_forward(part)(part, hidden_TH, ids_TK, weights_TK)
    return [a for a in candidates if _same_bits(eager_TH, _sum(part, hidden_TH, ids_TK, weights_TK, a))]


def _sum(
    part: Any, hidden_TH: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor, arithmetic: Arithmetic
) -> torch.Tensor:
    """What the engine's executor computes, in plain words."""
    out_TH = torch.zeros_like(hidden_TH, dtype=arithmetic.sum_dtype(hidden_TH, weights_TK))
    names = parameter_names(part)
    for e in range(part.num_experts):
        choice, rows = ids_TK.T.eq(e).nonzero(as_tuple=True)
        weights = {name: getattr(part, name)[e] for name in names}
        ffn = expert_ffn(part, weights, hidden_TH[rows], compute=arithmetic.compute)
        out_TH.index_add_(0, rows, (ffn * weights_TK[rows, choice, None]).to(out_TH.dtype))
    return out_TH.to(hidden_TH.dtype)


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
