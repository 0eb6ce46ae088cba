"""Fused SwiGLU on bf16 weights in Numba: each weight is read from memory once and widened in a register.

Numba is optional: without it the torch kernels serve, at about half the speed for few tokens. It is worth the
dependency because torch widens bf16 through memory; here the widening is a shift of the loaded lanes. Nothing is
compiled at install; the first call compiles for this CPU, and the result is cached on disk.

Accumulation is fp32, one thread a row in a fixed order: deterministic whatever the number of threads.
Shapes: T tokens, H hidden, F ffn, N output columns, K input columns.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch

from ...errors import MissingDependencyError
from .base import SwigluWeights

LOCK = threading.Lock()  # Numba's fallback threading layer aborts the process when two threads enter at once


class FusedBf16:
    """One pass over bf16 weights for up to a few dozen tokens; memory-bound up to about four."""

    name = "fused-bf16"
    lossless = True
    weight_bytes = 2.0

    def __init__(self, threads: int | None = None) -> None:
        try:
            from . import numba_loops
        except ModuleNotFoundError as error:
            raise MissingDependencyError("numba", "the fused bf16 CPU kernel", "pip install numba") from error
        self._loops: Any = numba_loops
        self.threads = threads or torch.get_num_threads()

    def pack(self, weights: SwigluWeights) -> tuple[Any, Any, Any]:
        """Gate, up and down: the same memory, seen as NumPy arrays of 16-bit patterns."""
        gate_FH, up_FH = np.split(_bits(weights.gate_up_2FH), 2)
        return gate_FH, up_FH, _bits(weights.down_HF)

    def swiglu(self, hidden_TH: torch.Tensor, packed: tuple[Any, Any, Any]) -> torch.Tensor:
        """down(silu(gate(x)) * up(x)), fp32 in between: [T, H]."""
        gate_FH, up_FH, down_HF = packed
        input_TH = hidden_TH.float().contiguous().numpy()
        inner_TF, other_TF = np.empty((2, input_TH.shape[0], gate_FH.shape[0]), np.float32)
        out_TH = np.empty((input_TH.shape[0], down_HF.shape[0]), np.float32)
        with LOCK:
            self._loops.set_num_threads(self.threads)
            self._loops.swiglu(gate_FH, up_FH, down_HF, input_TH, inner_TF, other_TF, out_TH, self.threads)
        return torch.from_numpy(out_TH).to(hidden_TH.dtype)

    def linear(self, input_TK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
        """x times the transposed weights: [T, N]."""
        wide_TK = input_TK.float().contiguous().numpy()
        out_TN = np.empty((wide_TK.shape[0], weight_NK.shape[0]), np.float32)
        with LOCK:
            self._loops.set_num_threads(self.threads)
            self._loops.linear(_bits(weight_NK), wide_TK, out_TN, self.threads)
        return torch.from_numpy(out_TN).to(input_TK.dtype)


def _bits(weight: torch.Tensor) -> Any:
    return weight.contiguous().view(torch.uint16).numpy()
