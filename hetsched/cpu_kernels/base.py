"""What a CPU expert kernel is.

Shapes: T tokens, H hidden, F ffn, N output columns, K input columns.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch


class SwigluWeights(NamedTuple):
    """One expert's weights as transformers stacks them: gate rows above up rows [2F, H], and down [H, F]."""

    gate_up_2FH: torch.Tensor
    down_HF: torch.Tensor


class ExpertKernel(Protocol):
    """A way to compute an expert on the CPU. Deterministic: equal inputs give equal bits, run after run.

    `lossless`: works on the weights exactly as stored, so that its result is the fp32 reference's within the rounding
    of the activations; a lossy kernel stores fewer bits. `weight_bytes`: bytes of memory that it reads per weight.
    """

    name: str
    lossless: bool
    weight_bytes: float

    def pack(self, weights: SwigluWeights) -> Any:
        """The weights in the form that the kernel reads; for lossless kernels no copy of them."""
        ...

    def swiglu(self, hidden_TH: torch.Tensor, packed: Any) -> torch.Tensor:
        """down(silu(gate(x)) * up(x)) in the dtype of x: [T, H]."""
        ...

    def linear(self, input_TK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
        """x times the transposed weights, in the dtype of x: [T, N]. For experts that are no plain SwiGLU."""
        ...
