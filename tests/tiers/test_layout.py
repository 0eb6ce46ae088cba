"""Copies hold what GGUF's formats say: the weights made of them are gguf's own, and near the exact ones.

Shapes: E experts.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from hetsched.engine.quantised_layout import BLOCK, QuantisedLayout
from hetsched.engine.quantised_store import QuantisedStore
from hetsched.packed import layout_of
from hetsched.tiers import INT4, INT8, Precision
from hetsched.types import ExpertId

BOTH = pytest.mark.parametrize("precision", [INT8, INT4], ids=lambda precision: precision.name)
STEPS_AWAY = {"int8": 0.5, "int4": 1.0}  # Q4_0 maps the largest magnitude to -8; its opposite, 8, is clipped to 7


def experts(dtype: torch.dtype = torch.float32, ffn: int = 24, hidden: int = 32, bias: bool = False) -> Any:
    """A stand-in for an expert module: three experts with normal weights, one of them with rows of zeros."""
    torch.manual_seed(0)
    names = {"gate_up_proj": (3, 2 * ffn, hidden), "down_proj": (3, hidden, ffn)}
    if bias:
        names |= {"gate_up_proj_bias": (3, 2 * ffn), "down_proj_bias": (3, hidden)}
    parameters = {name: torch.nn.Parameter((0.02 * torch.randn(shape)).to(dtype)) for name, shape in names.items()}
    parameters["gate_up_proj"].data[2, :4] = 0.0
    traits = {"has_gate": True, "has_bias": bias, "is_transposed": False, "has_post_expert_norm": False}
    return SimpleNamespace(num_experts=3, **traits, **parameters)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ffn", [24, 5], ids=["whole blocks", "an odd rest"])
def test_weights_are_those_that_gguf_makes_of_the_same_blocks(
    precision: Precision, dtype: torch.dtype, ffn: int
) -> None:
    """gguf packs and unpacks blocks by itself; here the numbers are laid out anew, and nothing else."""
    module, kind = experts(dtype, ffn), GGMLQuantizationType[precision.gguf_type]
    layout = QuantisedLayout.quantising(module, precision)
    row = torch.zeros(layout.row_bytes, dtype=torch.uint8)
    layout.fill(row, {name: getattr(module, name)[1] for name in ("gate_up_proj", "down_proj")})
    for name, weights in layout.views(row).items():
        exact = getattr(module, name).data[1]
        padded = np.zeros(-(-exact.numel() // BLOCK) * BLOCK, np.float32)
        padded[: exact.numel()] = exact.float().flatten().numpy()
        expected = dequantize(quantize(padded.reshape(-1, BLOCK), kind), kind).flatten()[: exact.numel()]
        assert weights.dtype == dtype
        assert torch.equal(weights, torch.from_numpy(expected).to(dtype).view(exact.shape))


@BOTH
def test_errors_are_within_the_step_of_each_block(precision: Precision) -> None:
    """A block's step is its largest weight over 127 or 8, kept to fp16's 11 bits."""
    module, store = experts(), QuantisedStore(precision)
    layout = store.adopt(0, module)
    for e in range(3):
        made = layout.views(store.row(ExpertId(0, e)))
        for name, exact in store.weights(ExpertId(0, e)).items():
            blocks = exact.reshape(-1, BLOCK)
            peak = blocks.abs().amax(dim=1, keepdim=True)
            step = peak / (127 if precision is INT8 else 8)
            error = (made[name].reshape(-1, BLOCK) - blocks).abs()
            assert (error <= STEPS_AWAY[precision.name] * step * 1.001 + peak * 2**-11).all()
            assert error.max() > 0  # lossy indeed
    assert not made["gate_up_proj"][:4].any()


@BOTH
def test_a_row_takes_the_bits_that_the_format_says(precision: Precision) -> None:
    module = experts(torch.bfloat16, ffn=64, hidden=64)
    layout = QuantisedLayout.quantising(module, precision)
    assert layout.row_bytes == 3 * 64 * 64 * precision.weight_bits / 8
    assert layout_of(module).row_bytes == 3 * 64 * 64 * 2


@BOTH
def test_biases_stay_exact(precision: Precision) -> None:
    module, store = experts(torch.bfloat16, bias=True), QuantisedStore(precision)
    made = store.adopt(0, module).views(store.row(ExpertId(0, 2)))
    assert len(made) == 4
    for name in ("gate_up_proj_bias", "down_proj_bias"):
        assert torch.equal(made[name], getattr(module, name)[2])
    with pytest.raises(KeyError):
        made["numbers"]


@BOTH
def test_the_store_keeps_weights_exact_and_gives_them_back(precision: Precision) -> None:
    """The CPU lane's weights and the module's own are never touched; the copies are dropped with the layer."""
    module, store = experts(torch.bfloat16), QuantisedStore(precision)
    before = {name: getattr(module, name).data.clone() for name in ("gate_up_proj", "down_proj")}
    layout = store.adopt(0, module)
    assert store.layout(0) is layout
    assert store.rows(0).shape == (3, layout.row_bytes)
    assert store.num_bytes == 3 * (layout.row_bytes + layout_of(module).row_bytes)
    for name, exact in before.items():
        assert torch.equal(store.weights(ExpertId(0, 1))[name], exact[1])
    store.give_back(0, module)
    assert store.num_bytes == 0
    for name, exact in before.items():
        assert torch.equal(getattr(module, name).data, exact)
