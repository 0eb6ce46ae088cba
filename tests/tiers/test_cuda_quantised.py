"""The product with a copy on a CUDA device, without one: its source compiles for real GPUs and computes on the host.

Shapes: T tokens, N output columns, K input columns.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hetsched.accelerators.cuda import kernels as cuda_kernels
from hetsched.accelerators.cuda import quantised as cuda_quantised
from hetsched.accelerators.cuda import source as cuda_source
from hetsched.engine.quantised_layout import QuantisedLayout
from hetsched.engine.quantised_weight import QuantisedWeight
from hetsched.tiers import FUSED_TOKENS, INT4, INT8, Precision
from tests.accelerators import cuda_on_host

TORCH_DTYPES = {name: dtype for dtype, name in cuda_kernels.DTYPE_NAMES.items()}
ROUNDING = {"fp32": 2e-6, "bf16": 2**-7, "fp16": 2**-10}
BOTH = pytest.mark.parametrize("precision", [INT8, INT4], ids=lambda precision: precision.name)
RUN = r"""
extern "C" void run_linear(int bits, const unsigned char* numbers, const half_bits* scales, const scalar* x, scalar* y,
                           int T, int N, int K) {
    if (bits == 8) grid((N + WARPS - 1) / WARPS, 1, 32 * WARPS, [&] { linear_q8(numbers, scales, x, y, T, N, K); });
    else grid((N + WARPS - 1) / WARPS, 1, 32 * WARPS, [&] { linear_q4(numbers, scales, x, y, T, N, K); });
}
"""


def weight_of(precision: Precision, dtype: torch.dtype, rows: int = 7, columns: int = 96) -> QuantisedWeight:
    """A random [rows, columns] matrix as a copy holds it, behind another matrix in its row of bytes."""
    torch.manual_seed(1)
    shapes = {"gate_up_proj": (rows, columns), "down_proj": (5, 32)}
    module: Any = SimpleNamespace(has_gate=True, has_bias=False, is_transposed=False, has_post_expert_norm=False)
    module.num_experts = 1
    for name, shape in shapes.items():
        setattr(module, name, torch.nn.Parameter(torch.randn(1, *shape).to(dtype)))
    layout = QuantisedLayout.quantising(module, precision)
    row = torch.zeros(layout.row_bytes, dtype=torch.uint8)
    layout.fill(row, {name: getattr(module, name)[0] for name in shapes})
    weight = layout.views(row).matrix("gate_up_proj")  # type: ignore[attr-defined]
    assert isinstance(weight, QuantisedWeight)
    return weight


@pytest.mark.parametrize(("dtype", "arch"), [("bf16", 80), ("bf16", 90), ("bf16", 120), ("fp16", 90), ("fp32", 80)])
def test_kernels_compile_for_real_gpus(dtype: str, arch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kernels, for each compute capability and each dtype; no GPU is needed for that."""
    if importlib.util.find_spec("cupy_backends") is None:
        pytest.skip("CuPy is not installed (extra cuda13), so there is no door to NVRTC")
    monkeypatch.setattr(cuda_source, "SOURCE", cuda_quantised.SOURCE)
    cubin = cuda_kernels.compiled(dtype, arch)
    assert all(kernel.encode() in cubin for kernel in cuda_quantised.KERNELS.values())


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    if cuda_on_host.compiler() is None:
        pytest.skip("no C++ compiler here to run the kernels' source on the host")
    folder: Path = tmp_path_factory.mktemp("quantised")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_source, "SOURCE", cuda_source.SOURCE + cuda_quantised.PRODUCTS)
        patch.setattr(cuda_on_host, "HALF", cuda_on_host.HALF + RUN)
        return request.param, cuda_on_host.build(request.param, folder)


@BOTH
@pytest.mark.parametrize("num_tokens", range(1, FUSED_TOKENS + 1))
def test_the_kernel_computes_the_product_with_the_weights_made(
    library: tuple[str, Any], precision: Precision, num_tokens: int
) -> None:
    """The same source on the host, against a product with the weights that the copy stands for, in fp64."""
    dtype, host = library
    weight = weight_of(precision, TORCH_DTYPES[dtype])
    x_TK = torch.randn(num_tokens, 96).to(TORCH_DTYPES[dtype])
    y_TN = torch.full((num_tokens, 7), torch.nan, dtype=x_TK.dtype)
    tensors = (weight.numbers, weight.scales, x_TK, y_TN)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    host.run_linear(weight.bits, *pointers, num_tokens, 7, 96)
    exact = QuantisedWeight(weight.numbers, weight.scales, weight.shape, torch.float32).made().double()
    expected = x_TK.double() @ exact.T
    torch.testing.assert_close(y_TN.double(), expected, rtol=ROUNDING[dtype], atol=2e-5)


@BOTH
def test_only_few_rows_in_plain_products_go_to_the_kernel(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything else gets the weights made; a bias is added behind the kernel."""
    weight, asked = weight_of(precision, torch.float32), []

    def serves(x_TK: torch.Tensor, dtype: torch.dtype) -> bool:
        return len(x_TK) <= FUSED_TOKENS

    def linear(
        numbers: torch.Tensor, scales: torch.Tensor, bits: int, num_columns: int, x_TK: torch.Tensor
    ) -> torch.Tensor:
        asked.append(len(x_TK))
        return x_TK @ weight.made().T

    monkeypatch.setattr(cuda_quantised, "serves", serves)
    monkeypatch.setattr(cuda_quantised, "linear", linear)
    made, bias_N = weight.made(), torch.randn(7)
    tensor: Any = weight
    for num_tokens in (FUSED_TOKENS, FUSED_TOKENS + 1):
        x_TK, x_TN = torch.randn(num_tokens, 96), torch.randn(num_tokens, 7)
        torch.testing.assert_close(F.linear(x_TK, tensor), x_TK @ made.T)
        torch.testing.assert_close(F.linear(x_TK, tensor, bias_N), x_TK @ made.T + bias_N)
        torch.testing.assert_close(x_TN @ tensor, x_TN @ made)
    assert asked == [FUSED_TOKENS, FUSED_TOKENS]
    assert torch.equal(tensor.to(torch.float64), made.double())


def test_the_kernel_is_not_asked_without_a_cuda_device() -> None:
    assert FUSED_TOKENS == cuda_source.MAX_ROWS
    assert not cuda_quantised.serves(torch.zeros(1, 96), torch.float32)
