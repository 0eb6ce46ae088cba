"""The decode kernels as an engine asks for them: the experts of one lane's group in two launches.

Shapes: T tokens, N experts, P pairs of token and expert, H hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch

from .kernels import Activation, DecodeKernels, Experts, activation_of, serves
from .source import MAX_EXPERTS, MAX_ROWS


class CudaDecode:
    """Accelerator.grouped_experts of a CUDA device. Raises MissingDependencyError without CuPy."""

    def __init__(self, kernels: Any = None) -> None:
        self._kernels = kernels or DecodeKernels()
        self._activations: WeakKeyDictionary[Any, Activation | None] = WeakKeyDictionary()

    def __call__(
        self,
        module: Any,
        weights_N: Sequence[Mapping[str, torch.Tensor]],
        pairs_N: Sequence[int],
        hidden_TH: torch.Tensor,
        row_P: torch.Tensor,
        weight_P: torch.Tensor,
    ) -> torch.Tensor | None:
        """Each pair's weighted part [P, H]; None where the kernels do not serve."""
        if len(weights_N) > MAX_EXPERTS or max(pairs_N) > MAX_ROWS:
            return None
        if module not in self._activations:
            self._activations[module] = activation_of(module)
        activation = self._activations[module]
        if activation is None or not all(serves(weights, hidden_TH) for weights in weights_N):
            return None
        parts: torch.Tensor = self._kernels.parts(Experts(weights_N, pairs_N), activation, hidden_TH, row_P, weight_P)
        return parts
