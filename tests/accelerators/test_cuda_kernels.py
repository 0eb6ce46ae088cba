"""The CUDA decode kernels without a GPU: they compile for real ones, and the same source computes the right thing."""

from __future__ import annotations

import ctypes
import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hetsched.accelerators.cuda import source as cuda_source
from hetsched.accelerators.cuda.kernels import (
    DTYPE_NAMES,
    LAYER,
    Activation,
    Experts,
    activation_of,
    compiled,
    packed,
    reference,
    serves,
)

from .cuda_on_host import build, compiler

TORCH_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
ROUNDING = {"fp32": 2e-6, "bf16": 2**-7, "fp16": 2**-10}  # one unit in the last place
WEIGHTLESS = {"has_gate": True, "has_bias": False, "is_transposed": False, "has_post_expert_norm": False}


@pytest.mark.parametrize("arch", [80, 90, 120])
@pytest.mark.parametrize("dtype", cuda_source.DTYPES)
def test_kernels_compile_for_real_gpus(dtype: str, arch: int) -> None:
    """NVRTC makes a cubin with all three kernels; no GPU is needed for that."""
    if importlib.util.find_spec("cupy_backends") is None:
        pytest.skip("CuPy is not installed (extra cuda13), so there is no door to NVRTC")
    cubin = compiled(dtype, arch)
    assert cubin.startswith(b"\x7fELF")
    assert all(kernel.encode() in cubin for kernel in cuda_source.KERNELS)


@pytest.fixture(scope="module", params=list(cuda_source.DTYPES))
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    if compiler() is None:
        pytest.skip("no C++ compiler here to run the kernels' source on the host")
    return request.param, build(request.param, tmp_path_factory.mktemp("kernels"))


@pytest.mark.parametrize("activation", [Activation(0), Activation(1, limit=0.75), Activation(2, 1.702, 0.75)])
def test_kernels_compute_what_eager_does(library: tuple[str, Any], activation: Activation) -> None:
    """Four tokens over five experts of one to four rows. Numbers are such that products and sums are exact."""
    dtype, host = library
    torch.manual_seed(3)
    hidden_TH, weights = _exact((4, 72), dtype), [_expert(72, 40, dtype) for _ in range(5)]
    rows = [[2], [0, 1, 2, 3], [3, 0], [1], [2, 0, 3]]
    row_P = torch.tensor([row for of_expert in rows for row in of_expert])
    weight_P = torch.rand(len(row_P))
    experts = Experts(weights, [len(of_expert) for of_expert in rows])
    out_TH = torch.zeros_like(hidden_TH)
    for p, (e, row) in enumerate((e, row) for e, of_expert in enumerate(rows) for row in of_expert):
        inner_F = reference(activation, hidden_TH[row : row + 1] @ weights[e]["gate_up_proj"].T)
        part_H = (inner_F @ weights[e]["down_proj"].T) * weight_P[p]
        out_TH[row] += part_H[0].to(hidden_TH.dtype)
    found_TH = _on_host(host, experts, activation, hidden_TH, row_P, weight_P)
    torch.testing.assert_close(found_TH, out_TH, rtol=4 * ROUNDING[dtype], atol=4 * ROUNDING[dtype])
    assert torch.equal(found_TH, _on_host(host, experts, activation, hidden_TH, row_P, weight_P))


def test_the_structure_passed_by_value_has_the_compilers_layout(library: tuple[str, Any]) -> None:
    assert LAYER.itemsize == library[1].layer_bytes()
    assert LAYER.itemsize + 64 < 4096  # what a kernel's arguments may take


def test_more_than_a_launch_takes_is_an_error() -> None:
    with pytest.raises(ValueError, match="a launch takes"):
        packed(Experts([_expert(8, 8, "fp32")], [5]))


def test_weights_that_the_kernels_cannot_read_are_declined() -> None:
    """A width of half a load, a bias, another dtype than the activations', a transposed view."""
    plain, hidden_TH = _expert(16, 8, "bf16"), torch.zeros(1, 16, dtype=torch.bfloat16)
    assert serves(plain, hidden_TH)
    assert not serves(_expert(16, 12, "bf16"), hidden_TH)
    assert not serves({**plain, "down_proj_bias": torch.zeros(16)}, hidden_TH)
    assert not serves(plain, hidden_TH.float())
    assert not serves({**plain, "down_proj": torch.zeros(8, 16, dtype=torch.bfloat16).T}, hidden_TH)


def test_a_modules_activation_is_found_by_trying_it() -> None:
    silu = torch.nn.functional.silu

    def clamped(x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, -1)
        return silu(gate.clamp(max=7.0)) * up.clamp(-7.0, 7.0)

    def interleaved(x: torch.Tensor) -> torch.Tensor:
        return silu(x[..., ::2]) * x[..., 1::2]

    assert activation_of(SimpleNamespace(**WEIGHTLESS, _apply_gate=lambda x: reference(Activation(0), x))) == (0, 1, 0)
    assert activation_of(SimpleNamespace(**WEIGHTLESS, _apply_gate=clamped, swiglu_limit=7.0)) == (1, 1, 7.0)
    assert activation_of(SimpleNamespace(**WEIGHTLESS, _apply_gate=clamped)) is None  # its limit goes by another name
    assert activation_of(SimpleNamespace(**WEIGHTLESS, _apply_gate=interleaved)) is None
    assert activation_of(SimpleNamespace(**{**WEIGHTLESS, "has_bias": True}, _apply_gate=clamped)) is None


def test_activations_of_real_modules() -> None:
    """Qwen2-MoE's plain SwiGLU and DeepSeek-V4's clamped one are recognised as what their configurations say."""
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4Experts

    from hetsched.integrations.expert_modules import expert_modules
    from tests.conftest import tiny_moe

    assert activation_of(expert_modules(tiny_moe())[0]) == Activation(0)
    sizes = {"num_local_experts": 2, "hidden_size": 8, "intermediate_size": 8}
    v4 = DeepseekV4Experts(SimpleNamespace(**sizes, hidden_act="silu", swiglu_limit=10.0))
    assert activation_of(v4) == Activation(1, limit=10.0)


def _exact(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    """Small multiples of a power of two, so that sums of products are exact in any order."""
    return (torch.randint(-4, 5, shape) / 8).to(TORCH_DTYPES[dtype])


def _expert(hidden: int, ffn: int, dtype: str) -> dict[str, torch.Tensor]:
    return {"gate_up_proj": _exact((2 * ffn, hidden), dtype), "down_proj": _exact((hidden, ffn), dtype)}


def _on_host(
    host: Any,
    experts: Experts,
    activation: Activation,
    hidden_TH: torch.Tensor,
    row_P: torch.Tensor,
    weight_P: torch.Tensor,
) -> torch.Tensor:
    (num_tokens, hidden), pairs = hidden_TH.shape, len(row_P)
    ffn = experts.weights[0]["down_proj"].shape[1]
    act_PF, part_PH = hidden_TH.new_full((pairs, ffn), 77.0), hidden_TH.new_full((pairs, hidden), 77.0)
    out_TH = hidden_TH.new_full((num_tokens, hidden), 77.0)
    layer = packed(experts)
    tensors = hidden_TH, row_P, weight_P, act_PF, part_PH, out_TH
    host.run_layer(
        ctypes.c_void_p(layer.ctypes.data),
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        *(len(experts.weights), num_tokens, pairs, hidden, ffn, activation.kind),
        *(ctypes.c_float(activation.alpha), ctypes.c_float(activation.limit)),
    )
    return out_TH
