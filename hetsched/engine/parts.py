"""What each expert of a layer contributes: the rows it gets, where its results lie, and their sum.

Shapes: T tokens, K top-k, H hidden, N active experts, S rows sorted by expert: an expert's rows in eager's order, by
choice, then token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch

from ..accelerators.base import GroupedExperts
from ..cpu_kernels.weighted_sum import OneTokenSum, add_weighted, numbers_of
from .cpu_layer import first_rows, order_of_choices, rows_of_choices
from .expert_ffn import PLAIN
from .layer_work import LayerInput

Send = Callable[[torch.Tensor], torch.Tensor]


class HostParts:
    """Of a layer whose activations are on the host: results stay where the lanes leave them until all are added."""

    def __init__(self, work: LayerInput, counts: list[int], tokens: int, one_token: OneTokenSum) -> None:
        self._work, self._counts, self._one_token = work, counts, one_token
        self._part_N: list[torch.Tensor] = [work.hidden_TH] * len(counts)
        self._is_one = tokens == 1 and max(counts) == 1
        if not self._is_one:
            self._sort()

    def _sort(self) -> None:
        self._order_S = order_of_choices(self._work.ids_TK, sum(self._counts))
        self._rows_S = rows_of_choices(self._order_S, self._work.hidden_TH.shape[0])

    def rows(self, at: int, hidden_TH: torch.Tensor) -> torch.Tensor:
        """An expert's rows of the hidden states; one token needs no gathering."""
        if self._is_one:
            return hidden_TH
        begin = sum(self._counts[:at])
        return hidden_TH[self._rows_S[begin : begin + self._counts[at]]]

    def host_rows(self, at_N: Sequence[int]) -> torch.Tensor:
        """Which rows some experts get, one expert after another, int64 [P]."""
        if self._is_one:
            return first_rows(len(at_N), torch.device("cpu"))
        return _some(self._rows_S, self._counts, at_N)

    def put(self, at: int, part_CH: torch.Tensor) -> None:
        """An expert's results, not yet weighted."""
        self._part_N[at] = part_CH

    def sum(self) -> torch.Tensor:
        """All results weighted and added by ascending expert, [T, H], in the activations' dtype.

        One token's take the place of its first expert's results where these are nobody else's: making room for them
        costs more than adding them.
        """
        hidden_TH, weights_TK = self._work.hidden_TH, self._work.weights_TK
        arithmetic = self._work.arithmetic
        dtype = hidden_TH.dtype if arithmetic is PLAIN else arithmetic.sum_dtype(hidden_TH, weights_TK)
        out_TH = self._part_N[0]
        if not self._is_one or out_TH.dtype is not dtype or out_TH is hidden_TH or out_TH._base is not None:
            out_TH = torch.empty(hidden_TH.shape, dtype=dtype)
        if self._is_one and self._one_token.add(out_TH, self._part_N, self._work.ids_TK, weights_TK):
            return out_TH if dtype is hidden_TH.dtype else out_TH.to(hidden_TH.dtype)
        if out_TH is self._part_N[0]:
            out_TH = torch.empty_like(out_TH)
        return self._sum_of_many(out_TH, weights_TK.detach()).to(hidden_TH.dtype)

    def _sum_of_many(self, out_TH: torch.Tensor, weights_TK: torch.Tensor) -> torch.Tensor:
        if self._is_one:
            self._sort()
        part_N, counts, weights_S = self._part_N, self._counts, numbers_of(weights_TK).T.ravel()[self._order_S.numpy()]
        is_single = out_TH.dtype is torch.float32
        if is_single and add_weighted(out_TH, part_N, counts, self._rows_S.numpy(), weights_S):
            return out_TH
        out_TH.zero_()
        weights_S1 = torch.from_numpy(weights_S).view(weights_TK.dtype).unsqueeze(1)
        rows_N, weights_N = self._rows_S.split_with_sizes(counts), weights_S1.split_with_sizes(counts)
        for part, rows, weights in zip(part_N, rows_N, weights_N, strict=True):
            out_TH.index_add_(0, rows, (part * weights).to(out_TH.dtype))
        return out_TH


class DeviceParts:
    """Of a layer whose activations are on a device: results are weighted where they are, by the lane that has them.

    `host_rows_S`: the rows on the host, for the CPU lane. One token needs nothing sent. `grouped`: the device's own
    kernels, which may add all results at once.
    """

    def __init__(self, work: LayerInput, counts: list[int], send: Send, grouped: GroupedExperts | None) -> None:
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
        self._grouped = grouped
        shape = len(order), work.hidden_TH.shape[1]
        self._part_SH = _lasting(shape, work.arithmetic.sum_dtype(work.hidden_TH, weights_TK), device)
        self._elsewhere: dict[int, torch.Tensor] = {}

    def rows(self, at: int, hidden_TH: torch.Tensor) -> torch.Tensor:
        """An expert's rows of the hidden states, on the host or where they are; one token needs no gathering."""
        if hidden_TH.shape[0] == 1 and self._counts[at] == 1:
            return hidden_TH
        rows_S = self._rows_S if hidden_TH is self._hidden_TH else self._host_rows_S
        return hidden_TH[rows_S[self._ends[at] : self._ends[at + 1]]]

    def host_rows(self, at_N: Sequence[int]) -> torch.Tensor:
        """Which rows some experts get, one expert after another, int64 [P] on the host."""
        return _some(self._host_rows_S, self._counts, at_N)

    def put(self, at: int, part_CH: torch.Tensor) -> None:
        """Weight an expert's results, and put them into their rows."""
        span = slice(self._ends[at], self._ends[at + 1])
        torch.mul(part_CH, self._weights_S1[span], out=self._part_SH[span])

    def pairs(self, at_N: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Some experts' rows [P] and router weights [P, 1]."""
        return _some(self._rows_S, self._counts, at_N), _some(self._weights_S1, self._counts, at_N)

    def put_weighted(self, at_N: Sequence[int], part_PH: torch.Tensor) -> None:
        """The results of these experts, one below the other, weighted already."""
        part_PH = part_PH.to(self._part_SH.dtype)
        if _are_all(at_N, self._counts):
            self._part_SH = part_PH
            return
        parts = part_PH.split_with_sizes([self._counts[at] for at in at_N])
        self._elsewhere |= zip(at_N, parts, strict=True)

    def sum(self) -> torch.Tensor:
        """All results added by ascending expert, [T, H], in the activations' dtype."""
        part_SH, hidden_TH, out_TH = self._together(), self._hidden_TH, None
        if self._grouped is not None:
            out_TH = self._grouped.sum(part_SH, self._rows_S, hidden_TH.shape[0])
        if out_TH is None:
            out_TH = torch.zeros(hidden_TH.shape, dtype=part_SH.dtype, device=part_SH.device)
            parts, rows_N = (of.split_with_sizes(self._counts) for of in (part_SH, self._rows_S))
            for part, rows in zip(parts, rows_N, strict=True):
                if part.shape[0] == len(out_TH) == 1:
                    out_TH.add_(part)
                else:
                    out_TH.index_add_(0, rows, part)
        return out_TH.to(hidden_TH.dtype)

    def _together(self) -> torch.Tensor:
        """All results, [S, H]: those that lie where they were meant to, and those that do not."""
        if not self._elsewhere:
            return self._part_SH
        parts = list(self._part_SH.split_with_sizes(self._counts))
        for at, part in self._elsewhere.items():
            parts[at] = part
        return torch.cat(parts)


def _are_all(at_N: Sequence[int], counts: Sequence[int]) -> bool:
    """Whether these are all experts, in order."""
    return list(at_N) == list(range(len(counts)))


def _some(rows_S: torch.Tensor, counts: Sequence[int], at_N: Sequence[int]) -> torch.Tensor:
    if _are_all(at_N, counts):
        return rows_S
    rows_N = rows_S.split_with_sizes(list(counts))
    return torch.cat([rows_N[at] for at in at_N])


def _lasting(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An undefined matrix that threads may write to, also those that are not in their caller's inference mode."""
    if not torch.is_inference_mode_enabled():
        return torch.empty(shape, dtype=dtype, device=device)
    with torch.inference_mode(False):
        return torch.empty(shape, dtype=dtype, device=device)
