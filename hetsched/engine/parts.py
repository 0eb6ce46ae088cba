"""What each expert of a layer contributes: the rows it gets, where its results lie, and their sum.

Shapes: T tokens, K top-k, H hidden, N active experts, S rows sorted by expert: an expert's rows in eager's order, by
choice, then token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate

import numpy as np
import torch

from ..cpu_kernels.weighted_sum import add_weighted, numbers_of
from ..types import IntArray
from .cpu_layer import first_rows, order_of_choices, rows_of_choices
from .layer_work import LayerInput

Send = Callable[[torch.Tensor], torch.Tensor]


class HostParts:
    """Of a layer whose activations are on the host: results stay where the lanes leave them until all are added."""

    def __init__(self, work: LayerInput, counts: list[int]) -> None:
        weights_TK, tokens = work.weights_TK, work.hidden_TH.shape[0]
        if weights_TK.requires_grad:
            weights_TK = weights_TK.detach()
        ids_TK, self._router = work.ids_TK.numpy(), numbers_of(weights_TK)
        size = sum(counts)
        if tokens == 1:
            self._choice_S = ids_TK[0].argsort(kind="stable")[:size]
            self._rows_S, self._weights_S = _one_row(size), self._router[0][self._choice_S]
        else:
            order_S = ids_TK.T.ravel().astype(np.int16).argsort(kind="stable")[:size]
            self._rows_S, self._weights_S = order_S % tokens, self._router.T.ravel()[order_S]
        self._counts = counts
        self._hidden_TH, self._weights_dtype = work.hidden_TH, weights_TK.dtype
        self._dtype = work.arithmetic.sum_dtype(work.hidden_TH, weights_TK)
        self._part_N: list[torch.Tensor] = [work.hidden_TH] * len(counts)

    def rows(self, at: int, hidden_TH: torch.Tensor) -> torch.Tensor:
        """An expert's rows of the hidden states; one token needs no gathering."""
        if hidden_TH.shape[0] == 1 and self._counts[at] == 1:
            return hidden_TH
        begin = sum(self._counts[:at])
        return hidden_TH[torch.from_numpy(self._rows_S[begin : begin + self._counts[at]])]

    def put(self, at: int, part_CH: torch.Tensor) -> None:
        """An expert's results, not yet weighted."""
        self._part_N[at] = part_CH

    def sum(self) -> torch.Tensor:
        """All results weighted and added by ascending expert, [T, H], in the activations' dtype."""
        hidden_TH, counts = self._hidden_TH, self._counts
        once = self._dtype is torch.float32 or (hidden_TH.shape[0] == 1 and len(counts) == self._rows_S.size)
        if once:
            out_TH = torch.empty(hidden_TH.shape, dtype=self._dtype)
            if add_weighted(out_TH, self._part_N, counts, self._rows_S, self._weights_S):
                return out_TH if self._dtype is hidden_TH.dtype else out_TH.to(hidden_TH.dtype)
        out_TH = torch.zeros(hidden_TH.shape, dtype=self._dtype)
        rows_S, weights_S1 = torch.from_numpy(self._rows_S), torch.from_numpy(self._weights_S).unsqueeze(1)
        weights_S1 = weights_S1.view(self._weights_dtype)
        rows_N, weights_N = rows_S.split_with_sizes(counts), weights_S1.split_with_sizes(counts)
        for part, rows, weights in zip(self._part_N, rows_N, weights_N, strict=True):
            out_TH.index_add_(0, rows, (part * weights).to(self._dtype))
        return out_TH.to(hidden_TH.dtype)


class DeviceParts:
    """Of a layer whose activations are on a device: results are weighted where they are, by the lane that has them.

    `host_rows_S`: the rows on the host, for the CPU lane. One token needs nothing sent.
    """

    def __init__(self, work: LayerInput, counts: list[int], send: Send) -> None:
        weights_TK = work.weights_TK.detach() if work.weights_TK.requires_grad else work.weights_TK
        order, tokens, device = order_of_choices(work.ids_TK, sum(counts)), work.ids_TK.shape[0], weights_TK.device
        self._host_rows_S = rows_of_choices(order, tokens)
        if tokens == 1:
            columns = weights_TK.unbind(1)
            self._rows_S = first_rows(len(order), device)
            self._weights_S1 = torch.cat([columns[k] for k in order.tolist()]).unsqueeze(1)
        else:
            order = send(order)
            self._rows_S = rows_of_choices(order, tokens)
            self._weights_S1 = weights_TK.t().reshape(-1, 1).index_select(0, order)
        self._counts, self._ends, self._hidden_TH = counts, [0, *accumulate(counts)], work.hidden_TH
        shape = len(order), work.hidden_TH.shape[1]
        self._part_SH = _lasting(shape, work.arithmetic.sum_dtype(work.hidden_TH, weights_TK), device)
        self._elsewhere: dict[int, torch.Tensor] = {}

    def rows(self, at: int, hidden_TH: torch.Tensor) -> torch.Tensor:
        """An expert's rows of the hidden states, on the host or where they are; one token needs no gathering."""
        if hidden_TH.shape[0] == 1 and self._counts[at] == 1:
            return hidden_TH
        rows_S = self._rows_S if hidden_TH is self._hidden_TH else self._host_rows_S
        return hidden_TH[rows_S[self._ends[at] : self._ends[at + 1]]]

    def put(self, at: int, part_CH: torch.Tensor) -> None:
        """Weight an expert's results, and put them into their rows."""
        span = slice(self._ends[at], self._ends[at + 1])
        torch.mul(part_CH, self._weights_S1[span], out=self._part_SH[span])

    def pairs(self, at_N: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Some experts' rows [P] and router weights [P, 1]."""
        if len(at_N) == len(self._counts) and list(at_N) == sorted(at_N):
            return self._rows_S, self._weights_S1
        rows_N = self._rows_S.split_with_sizes(self._counts)
        weights_N = self._weights_S1.split_with_sizes(self._counts)
        return torch.cat([rows_N[at] for at in at_N]), torch.cat([weights_N[at] for at in at_N])

    def put_weighted(self, at_N: Sequence[int], part_PH: torch.Tensor) -> None:
        """The results of these experts, one below the other, weighted already."""
        parts = part_PH.split_with_sizes([self._counts[at] for at in at_N])
        self._elsewhere |= zip(at_N, parts, strict=True)

    def sum(self) -> torch.Tensor:
        """All results added by ascending expert, [T, H], in the activations' dtype."""
        part_SH, hidden_TH = self._part_SH, self._hidden_TH
        out_TH = torch.zeros(hidden_TH.shape, dtype=part_SH.dtype, device=part_SH.device)
        parts = list(part_SH.split_with_sizes(self._counts))
        for at, part in self._elsewhere.items():
            parts[at] = part.to(part_SH.dtype)
        for part, rows in zip(parts, self._rows_S.split_with_sizes(self._counts), strict=True):
            if part.shape[0] == len(out_TH) == 1:
                out_TH.add_(part)
            else:
                out_TH.index_add_(0, rows, part)
        return out_TH.to(hidden_TH.dtype)


def _lasting(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An undefined matrix that threads may write to, also those that are not in their caller's inference mode."""
    if not torch.is_inference_mode_enabled():
        return torch.empty(shape, dtype=dtype, device=device)
    with torch.inference_mode(False):
        return torch.empty(shape, dtype=dtype, device=device)


@cache
def _one_row(size: int) -> IntArray:
    """The row number of a step's only token, so many times. Nobody writes to it."""
    return np.zeros(size, np.int64)
