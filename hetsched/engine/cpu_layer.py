"""One layer's experts on the CPU, bit for bit as transformers' eager forward computes them, in fewer operations.

Shapes: T tokens, K top-k, S = tokens sorted by expert (at most T * K), N active experts, E experts, H hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..cpu_kernels.weighted_sum import add_weighted, numbers_of
from ..packed import PackedWeights
from .expert_ffn import Arithmetic, expert_ffn

ALIGN = 64  # bytes; a matrix product may round otherwise where its rows begin elsewhere in a cache line
SERIAL = 1 << 14  # elements; up to here torch does every elementwise operation in one thread, row after row
CHUNK = 1 << 21  # elements of a gathered matrix


class TokenOrder(NamedTuple):
    """A layer's tokens by expert, rows of an expert in eager's order: by choice, then token.

    Expert active[i] has the next counts[i] of `rows_S` (token numbers) and of the router's `weights_S1`.
    """

    active: list[int]
    counts: list[int]
    rows_S: torch.Tensor
    weights_S1: torch.Tensor


def sort_by_expert(ids_TK: torch.Tensor, weights_TK: torch.Tensor, active: list[int], counts: list[int]) -> TokenOrder:
    """Sort once for the whole layer. `active`, `counts`: which experts exist here; larger ids are left out."""
    order = order_of_choices(ids_TK, sum(counts))
    weights_P1 = weights_TK.reshape(-1, 1) if len(weights_TK) == 1 else weights_TK.t().reshape(-1, 1)
    weights_S1 = weights_P1.index_select(0, order)
    return TokenOrder(active, counts, rows_of_choices(order, ids_TK.shape[0]), weights_S1)


def order_of_choices(ids_TK: torch.Tensor, size: int) -> torch.Tensor:
    """Which choices (choice * T + token) the experts have, one expert after another; `size` of them are of experts."""
    ids = ids_TK.numpy()
    flat = ids[0] if len(ids) == 1 else ids.T.ravel().astype(np.int16)
    return torch.from_numpy(flat.argsort(kind="stable")[:size])


def rows_of_choices(order: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """The token of each choice. Nobody writes to it."""
    return first_rows(len(order), order.device) if num_tokens == 1 else order % num_tokens


@cache
def first_rows(size: int, device: torch.device) -> torch.Tensor:
    """The row number of a step's only token, so many times."""
    with torch.inference_mode(False):
        return torch.zeros(size, dtype=torch.int64, device=device)


class Scratch:
    """Matrices that layers use one after another: fresh memory costs a page fault every 4 KiB."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def matrix(self, name: str, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        """An undefined matrix, valid until the next of its name."""
        size = rows * columns
        if not SERIAL < size <= CHUNK:
            return torch.empty((rows, columns), dtype=dtype)
        held = self._held.get((name, dtype))
        if held is None:
            with torch.inference_mode(False):  # else it could not be written outside of that mode
                held = self._held[name, dtype] = torch.empty(CHUNK, dtype=dtype)
        return held[:size].view(rows, columns)


class ExactExperts:
    """A layer's experts with eager's operations in eager's order.

    Experts that allow it (`together`, tried out when the layer is taken over) share gathers, activations and sums; a
    row gets the same bits as alone.
    """

    def __init__(
        self, module: Any, weights_E: Sequence[Mapping[str, torch.Tensor]], scratch: Scratch | None = None
    ) -> None:
        self._module = module
        self._weights_E = weights_E
        self._scratch = scratch or Scratch()
        self.together = False
        if isinstance(weights_E[0], PackedWeights):  # unpacked one at a time, as they are needed
            return
        up = "gate_up_proj" if module.has_gate else "up_proj"
        self._up_E = [_as_factor(module, weights[up]) for weights in weights_E]
        self._down_E = [_as_factor(module, weights["down_proj"]) for weights in weights_E]
        self.together = _may_go_together(module, self._up_E[0], self._down_E[0])

    def forward(self, hidden_TH: torch.Tensor, work: TokenOrder, arithmetic: Arithmetic) -> torch.Tensor:
        """The experts' weighted sum, [T, H]."""
        out_TH = torch.zeros_like(hidden_TH, dtype=arithmetic.sum_dtype(hidden_TH, work.weights_S1))
        compute = arithmetic.compute or hidden_TH.dtype
        apart = not self.together or compute != self._up_E[0].dtype or torch.is_autocast_enabled("cpu")
        limit = 1 if apart else CHUNK // max(self._up_E[0].shape)
        for some, span in _groups(work.counts, limit):
            rows, experts, counts = work.rows_S[span], work.active[some], work.counts[some]
            if apart:
                weights, input_SH = self._weights_E[experts[0]], hidden_TH.index_select(0, rows)
                part_SH = expert_ffn(self._module, weights, input_SH, F.linear, arithmetic.compute)
            else:
                part_SH = self._several(hidden_TH.to(compute), rows, experts, counts)
            add_in_order(out_TH, rows, part_SH, work.weights_S1[span], counts)
        return out_TH.to(hidden_TH.dtype)

    def _several(
        self, hidden_TH: torch.Tensor, rows_S: torch.Tensor, experts: list[int], counts: list[int]
    ) -> torch.Tensor:
        """The experts' results below each other; each has the next counts[i] of `rows_S`."""
        (hidden, width), size, dtype = self._up_E[0].shape, rows_S.shape[0], hidden_TH.dtype
        input_SH = self._scratch.matrix("input", size, hidden, dtype)
        torch.index_select(hidden_TH, 0, rows_S, out=input_SH)
        projected = self._scratch.matrix("projected", size, width, dtype)
        _multiply(input_SH, self._up_E, experts, counts, projected)
        out_SH = self._scratch.matrix("out", size, self._down_E[0].shape[1], dtype)
        act = self._module._apply_gate if self._module.has_gate else self._module.act_fn
        limit = (SERIAL if torch.get_num_threads() > 1 else CHUNK) // width
        for some, span in _groups(counts, limit):
            _multiply(act(projected[span]), self._down_E, experts[some], counts[some], out_SH[span])
        return out_SH


def _multiply(
    x: torch.Tensor, factor_E: Sequence[torch.Tensor], experts: list[int], counts: list[int], out: torch.Tensor
) -> None:
    """Each expert's rows times its factor."""
    for e, rows, target in zip(experts, x.split_with_sizes(counts), out.split_with_sizes(counts), strict=True):
        torch.mm(rows, factor_E[e], out=target)


def add_in_order(
    out_TH: torch.Tensor, rows_S: torch.Tensor, part_SH: torch.Tensor, weights_S1: torch.Tensor, counts: list[int]
) -> None:
    """Weight the results of experts, and add one after another. In half precision one call of torch's rounds the sum of
    a token only once: that must not be for several experts, and must be for one that the router named twice."""
    if out_TH.dtype == torch.float32 or (out_TH.shape[0] == 1 and len(counts) == len(rows_S)):
        weights_S = numbers_of(weights_S1.detach()).reshape(-1)
        if add_weighted(out_TH, [part_SH], [len(rows_S)], rows_S.numpy(), weights_S, afresh=False):
            return
    weighted_SH = (part_SH * weights_S1).to(out_TH.dtype)
    if len(counts) == 1 or (out_TH.dtype == torch.float32 and out_TH.is_cpu):
        out_TH.index_add_(0, rows_S, weighted_SH)
        return
    for rows, part in zip(rows_S.split_with_sizes(counts), weighted_SH.split_with_sizes(counts), strict=True):
        out_TH.index_add_(0, rows, part)


def _groups(counts: list[int], limit: int) -> Iterator[tuple[slice, slice]]:
    """Consecutive experts of together at most `limit` rows, or one expert: slices of experts and of rows."""
    first = begin = end = 0
    for i, count in enumerate(counts):
        if i > first and end + count - begin > limit:
            yield slice(first, i), slice(begin, end)
            first, begin = i, end
        end += count
    if counts:
        yield slice(first, len(counts)), slice(begin, end)


def _as_factor(module: Any, weight: torch.Tensor) -> torch.Tensor:
    """The right-hand factor of x @ factor."""
    return weight if module.is_transposed else weight.t()


def _may_go_together(module: Any, up: torch.Tensor, down: torch.Tensor) -> bool:
    """Whether rows of several experts may lie in one matrix without changing a bit of any."""
    if module.has_bias or module.has_post_expert_norm:
        return False
    if any(width * up.itemsize % ALIGN for width in (*up.shape, *down.shape)):
        return False
    act = module._apply_gate if module.has_gate else module.act_fn
    random = torch.Generator().manual_seed(0)
    projected = torch.randn((32, up.shape[1]), generator=random).mul(3).to(up.dtype)
    alone = torch.cat([act(part) for part in projected.split_with_sizes((1, 1, 2, 3, 5, 20))])
    return torch.equal(act(projected), alone)
