"""The kernels as an engine asks for them: the experts of one lane's group in two launches, where tokens are few.

Packed experts with more tokens are unpacked by a kernel and multiplied by torch.

Shapes: T tokens, N experts, P pairs of token and expert, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from warnings import warn
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F

from ...packed import PackedWeights
from .activation import Activation, activation_of
from .experts import DTYPE_NAMES, Experts, Reading, Weights, reading_of
from .kernels import DecodeKernels, NotCompiled
from .source import MAX_EXPERTS, MAX_ROWS

MAX_SUMMED = 256  # pairs of one launch, each of whose threads looks at all of them


class CudaDecode:
    """Accelerator.grouped_experts of a CUDA device. `plain`: for experts that are not packed, too.

    Raises MissingDependencyError without CuPy.
    """

    def __init__(self, kernels: Any = None, plain: bool = True) -> None:
        self._kernels = kernels or DecodeKernels()
        self._plain, self._refused = plain, False
        self._activations: WeakKeyDictionary[Any, Activation | None] = WeakKeyDictionary()
        self._readings: dict[tuple[Any, ...], tuple[Any, Reading | None]] = {}  # of packed layouts, which are kept here

    def __call__(
        self,
        module: Any,
        weights_N: Sequence[Weights],
        pairs_N: Sequence[int],
        hidden_TH: torch.Tensor,
        row_P: torch.Tensor,
        weight_P: torch.Tensor,
    ) -> torch.Tensor | None:
        """Each pair's weighted part [P, H]; None where the kernels do not serve."""
        if self._refused or len(weights_N) > MAX_EXPERTS or not _loads_whole(hidden_TH):
            return None
        if module not in self._activations:
            self._activations[module] = activation_of(module)
        activation = self._activations[module]
        if activation is None:
            return None
        how = hidden_TH.dtype, activation.turns, bool(module.is_transposed)
        reading = self._reading(weights_N[0], how)  # a module's experts are stored alike
        if reading is None or reading.up.columns != hidden_TH.shape[1]:
            return None
        try:
            return self._parts(module, reading, activation, Experts(weights_N, pairs_N), hidden_TH, row_P, weight_P)
        except NotCompiled as error:
            self._without(error)
            return None

    def sum(self, part_PH: torch.Tensor, row_P: torch.Tensor, num_tokens: int) -> torch.Tensor | None:
        """In one launch, where pairs are few; with more of them torch's are sooner done."""
        if self._refused or len(row_P) > MAX_SUMMED or part_PH.dtype not in DTYPE_NAMES:
            return None
        try:
            summed: torch.Tensor = self._kernels.scatter(part_PH, row_P, num_tokens)
        except NotCompiled as error:
            self._without(error)
            return None
        return summed

    def _without(self, error: NotCompiled) -> None:
        if self._plain:
            raise error  # they were asked for
        self._refused = True
        warn(f"{error}; torch unpacks packed experts instead", stacklevel=3)

    def _parts(
        self,
        module: Any,
        reading: Reading,
        activation: Activation,
        experts: Experts,
        hidden_TH: torch.Tensor,
        row_P: torch.Tensor,
        weight_P: torch.Tensor,
    ) -> torch.Tensor | None:
        weights_N, pairs_N = experts
        parts: torch.Tensor
        if max(pairs_N) <= MAX_ROWS:
            parts = self._kernels.parts(reading, experts, activation, hidden_TH, row_P, weight_P)
            return parts
        if not isinstance(weights_N[0], PackedWeights):
            return None
        rows_N = hidden_TH[row_P].split_with_sizes(list(pairs_N))
        parts = torch.cat([self._many(module, reading, *each) for each in zip(weights_N, rows_N, strict=True)])
        return parts * weight_P.reshape(-1, 1)

    def _many(self, module: Any, reading: Reading, weights: Weights, hidden_TH: torch.Tensor) -> torch.Tensor:
        """One packed expert by torch's products, its matrices unpacked once for all its tokens: [T, H]."""
        up_FH, down_HF = self._kernels.unpacked(reading, weights, hidden_TH)
        projected = _product(hidden_TH, up_FH, weights.get("gate_up_proj_bias"))
        return _product(module._apply_gate(projected), down_HF, weights.get("down_proj_bias"))

    def _reading(self, weights: Weights, how: tuple[torch.dtype, bool, bool]) -> Reading | None:
        """How an expert is read; one look for all of a packed layout."""
        if not isinstance(weights, PackedWeights):
            return reading_of(weights, *how) if self._plain else None
        key = id(weights.layout), *how
        if key not in self._readings:
            self._readings[key] = weights.layout, reading_of(weights, *how)
        return self._readings[key][1]


def _loads_whole(hidden_TH: torch.Tensor) -> bool:
    return hidden_TH.is_contiguous() and hidden_TH.data_ptr() % 16 == 0


def _product(x: torch.Tensor, weights_RC: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product = F.linear(x, weights_RC)
    return product if bias is None else product + bias
