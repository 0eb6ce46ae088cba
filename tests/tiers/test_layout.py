"""Copies hold what their formats say: weights that gguf makes of the same numbers, near the exact ones.

Shapes: E experts.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from hetsched.accelerators.cuda.loads import load_of
from hetsched.engine.quantised_store import QuantisedStore, copied_layout
from hetsched.geometry import MoEGeometry
from hetsched.packed import PackedPiece, layout_of
from hetsched.tiers import INT4, INT8, PRECISIONS, Precision, stored_bytes
from hetsched.types import ExpertId

BOTH = pytest.mark.parametrize("precision", [INT8, INT4], ids=lambda precision: precision.name)
EVERY = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=lambda precision: precision.name)
GGUF = {"int8": GGMLQuantizationType.Q8_0, "int4": GGMLQuantizationType.Q4_0}
STEPS_AWAY = {"int8": 0.5, "int4": 1.0}  # Q4_0 maps the largest magnitude to -8; its opposite, 8, is clipped to 7
BLOCK = 32


def experts(
    dtype: torch.dtype = torch.float32, ffn: int = 64, hidden: int = 32, bias: bool = False, transposed: bool = False
) -> Any:
    """A stand-in for an expert module: three experts with normal weights, one of them with rows of zeros."""
    torch.manual_seed(0)
    names: dict[str, tuple[int, ...]] = {"gate_up_proj": (3, 2 * ffn, hidden), "down_proj": (3, hidden, ffn)}
    if transposed:
        names = {name: (experts, columns, rows) for name, (experts, rows, columns) in names.items()}
    if bias:
        names |= {"gate_up_proj_bias": (3, 2 * ffn), "down_proj_bias": (3, hidden)}
    parameters = {name: torch.nn.Parameter((0.02 * torch.randn(shape)).to(dtype)) for name, shape in names.items()}
    parameters["gate_up_proj"].data[2, :4] = 0.0
    traits = {"has_gate": True, "has_bias": bias, "is_transposed": transposed, "has_post_expert_norm": False}
    return SimpleNamespace(num_experts=3, **traits, **parameters)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("transposed", [False, True], ids=["as they are", "transposed"])
def test_weights_are_those_that_gguf_makes(precision: Precision, dtype: torch.dtype, transposed: bool) -> None:
    """gguf packs and unpacks by itself, output columns by output columns; here the same numbers come out."""
    module = experts(dtype, transposed=transposed)
    layout = copied_layout(module, precision)
    row = torch.zeros(layout.row_bytes, dtype=torch.uint8)
    layout.fill(row, {name: getattr(module, name)[1] for name in ("gate_up_proj", "down_proj")})
    for name, weights in layout.views(row).items():
        exact = getattr(module, name).data[1]
        rows = (exact.T if transposed else exact).float().contiguous().numpy()
        expected = torch.from_numpy(dequantize(quantize(rows, GGUF[precision.name]), GGUF[precision.name]))
        assert weights.dtype == dtype
        assert torch.equal(weights, (expected.T if transposed else expected).to(dtype))


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


@EVERY
def test_a_row_takes_what_a_plan_without_weights_says(precision: Precision) -> None:
    module = experts(torch.bfloat16, ffn=256, hidden=256)
    shape = MoEGeometry("made", num_layers=1, num_experts=3, top_k=1, hidden=256, ffn=256)
    row_bytes = copied_layout(module, precision).row_bytes
    assert row_bytes == stored_bytes(precision, shape)
    assert row_bytes == pytest.approx(3 * 256 * 256 * precision.format.weight_bits / 8, rel=1e-3)
    assert layout_of(module).row_bytes == 3 * 256 * 256 * 2
    biased = experts(torch.bfloat16, ffn=256, hidden=256, bias=True, transposed=True)
    with_biases = MoEGeometry("made", num_layers=1, num_experts=3, top_k=1, hidden=256, ffn=256, bias=True)
    assert copied_layout(biased, precision).row_bytes == stored_bytes(precision, with_biases)


@EVERY
def test_the_decode_kernels_read_every_precision(precision: Precision) -> None:
    assert load_of(precision.format) is not None


def test_what_a_format_cannot_store_stays_exact() -> None:
    """Rows of 24 weights are no whole blocks of Q4_0."""
    module, store = experts(torch.bfloat16, ffn=24), QuantisedStore(INT4)
    layout = store.adopt(0, module)
    assert [isinstance(piece, PackedPiece) for piece in layout.pieces] == [True, False]
    made = layout.views(store.row(ExpertId(0, 1)))
    assert torch.equal(made["down_proj"], module.down_proj[1])
    assert not torch.equal(made["gate_up_proj"], module.gate_up_proj[1])


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
