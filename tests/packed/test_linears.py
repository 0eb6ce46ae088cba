"""Packed weights of linear maps outside the experts: numbers to whoever looks, multiplied where they lie, restored."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import hetsched
from hetsched.cpu_kernels.packed.dense import DenseProduct, ManyTokens, matrix_of
from hetsched.cpu_kernels.packed.kernels import PackedKernel
from hetsched.errors import InputError
from hetsched.formats import format_of
from hetsched.integrations.dense_linear import DenseLinear
from hetsched.loading.load import load_model
from hetsched.measure.dense_kernels import choose_many
from hetsched.packed import PackedWeight, packed_parameter
from tests.loading.made_gguf import KIND, write
from tests.packed.models import FORMATS, logits, qwen3_moe

EMULATED: dict[str, Any] = {"hardware": "rtx-4060-laptop-8gb", "gpu_memory": "40%", "time_scale": 1.0}
SHAPE = (160, 256)


def stored(name: str, dtype: torch.dtype = torch.bfloat16) -> torch.nn.Parameter:
    """Random weights in a format."""
    format_ = format_of(name)
    held, packed = torch.zeros(format_.num_bytes(SHAPE), dtype=torch.uint8), format_.pack(torch.randn(SHAPE) / 16)
    for part in format_.parts(SHAPE):
        held[part.begin : part.begin + part.num_bytes] = packed[part.name].contiguous().view(torch.uint8).flatten()
    return packed_parameter(held, format_, SHAPE, dtype)


def linear(weight: torch.nn.Parameter, bias: bool = True) -> torch.nn.Linear:
    module = torch.nn.Linear(SHAPE[1], SHAPE[0], bias=bias).to(weight.dtype).requires_grad_(False)
    module._parameters["weight"] = weight
    return module


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """A tiny Qwen3-MoE in Q8_0."""
    path = tmp_path / "m.gguf"
    write(path, qwen3_moe(norm_topk_prob=True), KIND.Q8_0, KIND.Q8_0)
    return path


def packed_of(model: Any) -> dict[str, Any]:
    return {name: each for name, each in model.named_parameters() if isinstance(each, PackedWeight)}


@pytest.mark.parametrize("name", FORMATS)
def test_a_module_computes_what_it_would_unpacked(name: str) -> None:
    """Bit for bit, whatever looks at the weight."""
    weight = stored(name)
    plain = format_of(name).unpack(weight.parts(), SHAPE, torch.bfloat16)  # type: ignore[attr-defined]
    module, x = linear(weight), torch.randn(3, 256).bfloat16()
    assert torch.equal(module(x), F.linear(x, plain, module.bias))
    assert torch.equal(weight.detach() + 0, plain)
    assert torch.equal(weight[3:5], plain[3:5])
    assert torch.equal(weight.float(), plain.float())
    assert type(weight.detach().to("meta")) is torch.Tensor  # what is moved to a device is numbers there
    assert (weight.shape, weight.dtype, weight.is_cpu) == (SHAPE, torch.bfloat16, True)
    assert isinstance(module.to(torch.bfloat16).weight, PackedWeight)
    with torch.inference_mode():
        assert torch.equal(module(x.clone()), F.linear(x, plain, module.bias))
        assert torch.equal(weight.t()[:, 0], plain[0])


def test_it_is_not_written_to_but_copied() -> None:
    weight = stored("q8_0")
    with torch.no_grad(), pytest.raises(InputError, match="written"):
        weight.mul_(2)
    copied = copy.deepcopy(linear(weight)).weight
    assert isinstance(copied, PackedWeight)
    assert copied.data_ptr() != weight.data_ptr()
    assert torch.equal(copied + 0, weight + 0)
    assert "q8_0" in repr(weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["q8_0", "q4_0", "q4_k", "q6_k", "gguf-mxfp4", "mxfp4"])
def test_products_are_those_of_the_unpacked_weights(name: str, dtype: torch.dtype) -> None:
    """Few tokens in registers, many in blocks of either kind: of double precision within the rounding of results and,
    for blocks in half precision, of weights."""
    torch.manual_seed(0)
    weight = stored(name, dtype)
    matrix, bias = matrix_of(weight), torch.randn(SHAPE[0]).to(dtype)
    assert matrix is not None
    exact = format_of(name).unpack(weight.parts(), SHAPE, torch.float32).double()  # type: ignore[attr-defined]
    eps, kernel = torch.finfo(dtype).eps, PackedKernel()
    for tokens in (1, 3, 8, 40):
        x = torch.randn(tokens, 256).to(dtype)
        wanted, out = x.double() @ exact.t(), torch.empty(tokens, SHAPE[0], dtype=dtype)
        DenseProduct(matrix, dtype).into(out, x, bias)
        with_bias = wanted + bias.double()
        assert ((out.double() - with_bias).abs() <= 0.51 * eps * with_bias.abs() + 1e-5).all()
        for half in (False, True):
            many = ManyTokens(kernel, half)(x, matrix)
            assert many.dtype is dtype
            assert (many.double() - wanted).norm() <= (1.0 if half else 0.6) * eps * wanted.norm() + 1e-4


def test_modules_of_an_attached_model_read_the_files_bytes(gguf: Path) -> None:
    """Without a GPU: few and many tokens within rounding of the unpacked model, and the same objects after detach()."""
    model = load_model(gguf, progress=False)
    model.set_experts_implementation("eager")
    before, long = packed_of(model), torch.arange(3, 63)[None]
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in before} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "lm_head")
    }
    with torch.no_grad():
        expected = [logits(model), model(long).logits]
    with hetsched.attach(model, hardware="cpu", cpu_kernel="eager", dense_kernel="packed") as handle:
        assert isinstance(model.lm_head.__dict__["forward"], DenseLinear)
        with torch.no_grad():
            found = [logits(model), model(long).logits]
        assert handle.stats()["lossless"]
    for ours, eager in zip(found, expected, strict=True):  # a few tokens are near to other experts
        error_T = (ours.float() - eager.float()).norm(dim=-1) / eager.float().norm(dim=-1)
        assert error_T.median() < 0.03
    assert all(packed_of(model)[name] is each for name, each in before.items())
    assert torch.equal(logits(model), expected[0])


@pytest.mark.parametrize("options", [EMULATED, {"hardware": "cpu", "cpu_kernel": "eager"}], ids=["emulated", "cpu"])
def test_where_torch_multiplies_they_are_unpacked_meanwhile(gguf: Path, options: dict[str, Any]) -> None:
    """Once, at attach, bit for bit; and packed again after detach(), unless they were written to."""
    model = load_model(gguf, progress=False)
    model.set_experts_implementation("eager")
    before, expected = packed_of(model), logits(model)
    with hetsched.attach(model, **options):
        assert not packed_of(model)
        assert torch.equal(logits(model), expected)
    assert all(packed_of(model)[name] is each for name, each in before.items())
    with hetsched.attach(model, **options), torch.no_grad():
        model.lm_head.weight.zero_()
    assert not logits(model).any()
    assert len(packed_of(model)) == len(before) - 1


def test_rounded_activations_are_called_lossy(gguf: Path) -> None:
    """By name, or with experts of which it was asked for."""
    for options in ({"dense_kernel": "packed-int8"}, {"cpu_kernel": "packed-int8"}):
        model, handle = hetsched.load(gguf, hardware="cpu", progress=False, **options)
        with handle:
            assert handle.stats()["dense_kernel"] == "packed-int8"
            assert not handle.stats()["lossless"]
            rounded = logits(model)
        with hetsched.attach(model, hardware="cpu", cpu_kernel="eager"):
            exact = logits(model)
        assert 0 < (rounded - exact).float().norm() < 0.2 * exact.float().norm()


def test_unpack_unpacks_these_too(gguf: Path) -> None:
    assert not packed_of(load_model(gguf, progress=False, unpack=True))


def test_blocks_in_half_precision_must_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """By measurement on the model's own weight; in fp32, or where it is small, there is nothing to choose."""
    from hetsched.measure import dense_kernels
    from hetsched.measure.timing import Timing

    def pretend(calls: Any, budget_s: float) -> list[Timing]:
        for call in calls:
            call(0)
        return [Timing(1.0, 0.0, 0.0, 5), Timing(half_s, 0.0, 0.0, 5)]

    monkeypatch.setattr(dense_kernels, "time_together", pretend)
    half_s, weight = 0.5, stored("q4_0")
    assert not choose_many(PackedKernel(), weight).half
    monkeypatch.setattr(dense_kernels, "SMALLEST", 0)
    assert choose_many(PackedKernel(), weight).half
    assert not choose_many(PackedKernel(), stored("q4_0", torch.float32)).half
    half_s = 1.0
    assert not choose_many(PackedKernel(), weight).half
