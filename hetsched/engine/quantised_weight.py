"""QuantisedWeight: one weight matrix of a lossy copy, where a tensor is expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F

from ..accelerators.cuda import quantised as cuda_quantised
from ..tiers import BLOCK


class QuantisedWeight:
    """`numbers` int8 [blocks, 32], or [blocks, 16] with two nibbles a byte, times `scales` fp16 [blocks, 1].

    F.linear on few rows of a CUDA device reads them as they are; anything else gets weights made for the occasion.
    """

    def __init__(self, numbers: torch.Tensor, scales: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.numbers, self.scales, self.shape, self.dtype = numbers, scales, shape, dtype
        self.bits = numbers.shape[1] * 8 // BLOCK

    def made(self) -> torch.Tensor:
        """The weights, in the dtype of the model's own; a new tensor."""
        weights = torch.empty((len(self.numbers), BLOCK), dtype=self.dtype, device=self.numbers.device)
        scales = self.scales.float()
        if self.bits == 8:
            torch.mul(self.numbers, scales, out=weights)
        else:
            # Both nibbles as multiples of 16, so that each needs one operation; a power of two costs no accuracy.
            scales /= 16
            half = BLOCK // 2
            torch.mul(self.numbers << 4, scales, out=weights[:, :half])
            torch.mul(self.numbers & -16, scales, out=weights[:, half:])
        return weights.view(-1)[: prod(self.shape)].view(self.shape)

    def to(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights in another dtype."""
        return self.made().to(dtype)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[Any], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """What torch calls for any operation with such a weight among its arguments."""
        named: Mapping[str, Any] = kwargs or {}
        if func is F.linear and not named and isinstance(args[1], cls):
            x_TK, weight, bias = (*args, None)[:3]
            if cuda_quantised.serves(x_TK, weight.dtype):
                y_TN = cuda_quantised.linear(weight.numbers, weight.scales, weight.bits, weight.shape[0], x_TK)
                return y_TN if bias is None else y_TN + bias
        return func(*(arg.made() if isinstance(arg, cls) else arg for arg in args), **named)
