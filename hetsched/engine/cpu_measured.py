"""One layer's experts on the CPU by the kernels that measurement chose: lossless, not bit for bit eager's.

Shapes: T tokens, S = tokens sorted by expert, N active experts, E experts, H hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch

from ..cpu_kernels import Choice, ExpertKernel, SwigluWeights
from ..cpu_kernels.numba_kernels import FusedBf16
from ..cpu_kernels.torch_kernels import TorchLinear
from .cpu_layer import ExactExperts, TokenOrder
from .expert_ffn import Arithmetic, expert_ffn


class MeasuredExperts:
    """A layer's experts, each by the kernel for its number of tokens; added in fp32.

    Where the choice is torch's own product throughout, or under autocast, `exact` computes the layer.
    """

    def __init__(
        self, module: Any, weights_E: Sequence[Mapping[str, torch.Tensor]], choice: Choice, exact: ExactExperts
    ) -> None:
        self._module = module
        self._weights_E = weights_E
        self._choice = choice
        self._exact = exact
        self._swiglu_E = swiglu_weights(module, weights_E)
        self._fused = next((kernel for kernel in choice.kernels if isinstance(kernel, FusedBf16)), None)
        self._packed = self._fused.pack_several(self._swiglu_E) if self._fused and self._swiglu_E else None

    def forward(self, hidden_TH: torch.Tensor, work: TokenOrder, arithmetic: Arithmetic) -> torch.Tensor:
        """The experts' weighted sum, [T, H]."""
        kernels_N = [self._choice.at(count) for count in work.counts]
        own = all(isinstance(kernel, TorchLinear) for kernel in kernels_N)
        if own or torch.is_autocast_enabled("cpu"):
            return self._exact.forward(hidden_TH, work, arithmetic)
        out_TH = torch.zeros(hidden_TH.shape)
        fused = [i for i, kernel in enumerate(kernels_N) if self._packed and kernel is self._fused]
        if fused:
            self._add_fused(out_TH, hidden_TH, work if len(fused) == len(kernels_N) else _part(work, fused))
        if len(fused) < len(kernels_N):
            self._add_others(out_TH, hidden_TH, work, kernels_N, arithmetic)
        return out_TH.to(hidden_TH.dtype)

    def _add_fused(self, out_TH: torch.Tensor, hidden_TH: torch.Tensor, work: TokenOrder) -> None:
        """All experts of few tokens in one call."""
        assert self._fused is not None
        assert self._packed is not None
        input_SH = hidden_TH.float().index_select(0, work.rows_S)
        part_SH = self._fused.swiglu_of_several(input_SH, self._packed, work.active, work.counts)
        if len(out_TH) == 1:
            torch.mm(work.weights_S1.t().float(), part_SH, out=out_TH)
        else:
            out_TH.index_add_(0, work.rows_S, part_SH.mul_(work.weights_S1))

    def _add_others(
        self,
        out_TH: torch.Tensor,
        hidden_TH: torch.Tensor,
        work: TokenOrder,
        kernels_N: Sequence[ExpertKernel],
        arithmetic: Arithmetic,
    ) -> None:
        """The remaining experts, one after another."""
        rows_N, weights_N = work.rows_S.split_with_sizes(work.counts), work.weights_S1.split_with_sizes(work.counts)
        for e, rows, weights, kernel in zip(work.active, rows_N, weights_N, kernels_N, strict=True):
            if self._packed and kernel is self._fused:
                continue
            part = self._one(kernel, e, hidden_TH.index_select(0, rows), arithmetic)
            out_TH.index_add_(0, rows, part.mul_(weights))

    def _one(self, kernel: ExpertKernel, e: int, input_SH: torch.Tensor, arithmetic: Arithmetic) -> torch.Tensor:
        """One expert's rows in fp32, not yet weighted."""
        if self._swiglu_E:
            return kernel.swiglu(input_SH.float(), kernel.pack(self._swiglu_E[e]))
        part = expert_ffn(self._module, self._weights_E[e], input_SH, kernel.linear, arithmetic.compute)
        return part.to(torch.float32, copy=True)


def swiglu_weights(module: Any, weights_E: Sequence[Mapping[str, torch.Tensor]]) -> list[SwigluWeights]:
    """The experts as plain SwiGLU on 16-bit weights; empty where they are anything else."""
    gate = getattr(type(module)._apply_gate, "__qualname__", "")
    plain = module.has_gate and module.is_concatenated and gate == "_default_apply_gate"
    other = module.is_transposed or module.has_bias or module.has_post_expert_norm
    if not plain or other or type(module.act_fn).__name__ not in ("SiLU", "SiLUActivation"):
        return []
    found = [SwigluWeights(weights["gate_up_proj"], weights["down_proj"]) for weights in weights_E]
    return found if all(weight.itemsize == 2 for weight in found[0]) else []


def _part(work: TokenOrder, chosen: Sequence[int]) -> TokenOrder:
    """Some of the experts with their rows."""
    starts = [0, *accumulate(work.counts)]
    rows = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in chosen])
    return TokenOrder(
        [work.active[i] for i in chosen],
        [work.counts[i] for i in chosen],
        work.rows_S.index_select(0, rows),
        work.weights_S1.index_select(0, rows),
    )
