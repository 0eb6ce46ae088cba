"""One layer's packed experts on the CPU by the packed kernels, straight from the host store's rows.

Shapes: T tokens, S = tokens sorted by expert, E experts, H hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..cpu_kernels import Choice
from ..cpu_kernels.packed.kernels import ALL, Clamped, PackedKernel, PackedLayer
from ..cpu_kernels.packed.matrix import (
    Biases,
    ExpertMatrices,
    PackedMatrix,
    packed_matrix,
    require_numbers,
    serves,
)
from ..cpu_kernels.packed_ways import PackedWay
from ..formats import format_of
from ..packed import Matrix, PackedPiece, PackedWeights
from ..types import ExpertId, IntArray
from .cpu_layer import ExactExperts, TokenOrder
from .expert_ffn import Arithmetic, Linear
from .host_store import HostStore

PLAIN = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class PackedExperts:
    """A layer's experts where they lie, prepared once; fp32 inside and added in fp32, so lossless, not bit for bit.

    One call a layer, but that experts of many tokens are unpacked for torch's product one by one.
    """

    def __init__(self, layer: PackedLayer, kernel: PackedKernel, activation: Clamped | None) -> None:
        self._layer, self._kernel, self._activation = layer, kernel, activation

    def several(
        self, hidden_TH: torch.Tensor, rows_S: IntArray, active: Sequence[int], counts: Sequence[int]
    ) -> torch.Tensor:
        """Results, not yet weighted, fp32 [S, H]: expert active[i] has the next counts[i] of `rows_S`."""
        return self._kernel.swiglu_of_rows(hidden_TH, rows_S, self._layer, active, counts, self._activation)

    def forward(self, hidden_TH: torch.Tensor, work: TokenOrder) -> torch.Tensor:
        """The experts' weighted sum, [T, H]."""
        part_SH = self.several(hidden_TH, work.rows_S.numpy(), work.active, work.counts)
        if len(hidden_TH) == 1:
            return (work.weights_S1.t().float() @ part_SH).to(hidden_TH.dtype)
        out_TH = torch.zeros(hidden_TH.shape)
        out_TH.index_add_(0, work.rows_S, part_SH.mul_(work.weights_S1))
        return out_TH.to(hidden_TH.dtype)


class PackedOrExact:
    """Packed experts for a machine without an accelerator: by kernels, under autocast as transformers does."""

    def __init__(self, packed: PackedExperts, exact: ExactExperts) -> None:
        self._packed, self._exact = packed, exact

    def forward(self, hidden_TH: torch.Tensor, work: TokenOrder, arithmetic: Arithmetic) -> torch.Tensor:
        """The experts' weighted sum, [T, H]."""
        if torch.is_autocast_enabled("cpu"):
            return self._exact.forward(hidden_TH, work, arithmetic)
        return self._packed.forward(hidden_TH, work)


class CpuLane(NamedTuple):
    """What computes on the CPU beside an accelerator: a product, and for packed experts the kernels of a choice."""

    linear: Linear = F.linear
    choice: Choice | None = None


AS_TORCH = CpuLane()


class PackedLayers(dict[int, PackedExperts]):
    """Layers whose experts are packed and are computed by kernels. None without a choice."""

    def __init__(self, choice: Choice | None) -> None:
        super().__init__()
        self._choice = choice

    def adopt(self, layer: int, module: Any, store: HostStore) -> None:
        """Make one layer's experts ready, where they lie in the store."""
        if self._choice is None:
            return
        weights_E = [store.weights(ExpertId(layer, e)) for e in range(module.num_experts)]
        packed = packed_experts(module, weights_E, self._choice)
        if packed is not None:
            self[layer] = packed


def packed_experts(module: Any, weights_E: Sequence[Any], choice: Choice) -> PackedExperts | None:
    """Experts ready for the kernels of a choice; None where these are not packed, or nothing reads what they are.

    Raises InputError for weights that are no numbers.
    """
    known, activation = _activation_of(module)
    if not known or not isinstance(weights_E[0], PackedWeights):
        return None
    matrices = _matrices(module, weights_E[0])
    if matrices is None:
        return None
    few, rounded = _up_to(choice)
    kernel = PackedKernel(few=few, rounded=rounded)
    for weights in weights_E:
        for name in ("gate_up_proj", "down_proj"):
            for matrix, parts in weights.matrices(name) if _may_lack_numbers(weights, name) else ():
                require_numbers(matrix.format, parts)
    begin = weights_E[0].row.data_ptr()
    offset_E = np.array([weights.row.data_ptr() - begin for weights in weights_E], np.int64)
    biases_E = [_biases(module, weights) for weights in weights_E]
    layer = kernel.pack_rows(ExpertMatrices(*matrices), offset_E, biases_E, [weights.row for weights in weights_E])
    return PackedExperts(layer, kernel, activation)


def _activation_of(module: Any) -> tuple[bool, Clamped | None]:
    """Whether it is known, and None for silu."""
    if not module.has_gate or module.has_post_expert_norm:
        return False, None
    gate = getattr(type(module)._apply_gate, "__qualname__", "")
    if gate == "GptOssExperts._apply_gate":
        return True, Clamped(float(module.alpha), float(module.limit))
    return gate == "_default_apply_gate" and type(module.act_fn).__name__ in ("SiLU", "SiLUActivation"), None


def _matrices(module: Any, weights: PackedWeights) -> tuple[PackedMatrix, PackedMatrix, PackedMatrix] | None:
    """Gate, up and down of one expert; None where kernels do not read them."""
    ups, downs = (_stored(module, weights, name) for name in ("gate_up_proj", "down_proj"))
    if not ups or len(downs) != 1:
        return None
    (down,), piece = downs, weights.piece("gate_up_proj")
    joined = piece.joined if isinstance(piece, PackedPiece) else "rows"
    if len(ups) == 2:
        same = ups[0].unpacker is ups[1].unpacker and (joined == "rows") == module.is_concatenated
        return (ups[0], ups[1], down) if same else None
    ffn, share = ups[0].shape[0] // 2, ups[0].format.block[0]
    if len(ups) > 2 or (ffn % share if module.is_concatenated else share > 1):
        return None
    if module.is_concatenated:
        return ups[0].rows(0, ffn), ups[0].rows(ffn, 2 * ffn), down
    return ups[0].every(2, 0), ups[0].every(2, 1), down


def _stored(module: Any, weights: PackedWeights, name: str) -> list[PackedMatrix]:
    """The matrices of a parameter, plain ones too; none where kernels do not read them all."""
    found, piece = weights.matrices(name), weights.piece(name)
    if not found and piece.dtype in PLAIN and not module.is_transposed:
        plain = Matrix(format_of(PLAIN[piece.dtype]), (piece.shape[0], piece.shape[1]), piece.begin)
        found = [(plain, {"weights": weights[name]})]
    if not all(serves(matrix.format, matrix.shape) for matrix, _ in found):
        return []
    return [packed_matrix(matrix.format, parts, matrix.shape) for matrix, parts in found]


def _biases(module: Any, weights: PackedWeights) -> Biases | None:
    """Those of gate, up and down, in fp32."""
    if not module.has_bias:
        return None
    both, down = (weights[f"{name}_bias"].float() for name in ("gate_up_proj", "down_proj"))
    gate, up = both.chunk(2) if module.is_concatenated else (both[::2], both[1::2])
    return gate.contiguous(), up.contiguous(), down.contiguous()


def _may_lack_numbers(weights: PackedWeights, name: str) -> bool:
    piece = weights.piece(name)
    return isinstance(piece, PackedPiece) and any(m.format.name == "fp8-block" for m in piece.matrices)


def _up_to(choice: Choice) -> tuple[int, bool]:
    """The largest count of tokens for which weights are unpacked in registers, and whether activations are rounded."""
    ways = [way for way in choice.kernels if isinstance(way, PackedWay)]
    ends = [*choice.from_tokens[1:], ALL]
    few = max((end - 1 for way, end in zip(ways, ends, strict=True) if way.in_registers), default=0)
    return few, any(way.rounded for way in ways)
