"""CPU kernels: all against the formula in double precision, deterministic, and chosen by what was measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hetsched.cpu_kernels import (  # noqa: E402
    ChosenKernel,
    KernelTiming,
    SwigluWeights,
    choose,
    kernel_names,
    lossy_kernels,
    make_kernels,
    parse_choice,
)
from hetsched.cpu_kernels.torch_kernels import Upcast  # noqa: E402
from hetsched.errors import InputError, UnknownNameError  # noqa: E402

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CASES = [(dtype, kernel) for dtype in DTYPES for kernel in make_kernels(dtype)]
IDS = [kernel.name + "-" + dtype for dtype, kernel in CASES]
TOKENS = (1, 2, 3, 4, 5, 7, 8, 17)


def expert(hidden: int, ffn: int, dtype: Any) -> SwigluWeights:
    """Random weights of a usual size."""
    generator = torch.Generator().manual_seed(hidden * ffn)
    gate_up = torch.randn(2 * ffn, hidden, generator=generator) * hidden**-0.5
    down = torch.randn(hidden, ffn, generator=generator) * ffn**-0.5
    return SwigluWeights(gate_up.to(dtype), down.to(dtype))


def reference(hidden_TH: Any, weights: SwigluWeights) -> Any:
    """down(silu(gate x) * up x) in double precision on the weights as stored."""
    gate, up = (hidden_TH.double() @ weights.gate_up_2FH.double().t()).chunk(2, dim=-1)
    return (gate / (1 + torch.exp(-gate)) * up) @ weights.down_HF.double().t()


@pytest.mark.parametrize(("dtype", "kernel"), CASES, ids=IDS)
@pytest.mark.parametrize(("hidden", "ffn"), [(64, 48), (96, 33), (33, 7)])
def test_kernel_computes_the_formula(dtype: str, kernel: Any, hidden: int, ffn: int) -> None:
    """Within the rounding of the activations' dtype, at any number of tokens and at odd sizes."""
    weights = expert(hidden, ffn, DTYPES[dtype])
    for tokens in TOKENS:
        hidden_TH = torch.randn(tokens, hidden).to(DTYPES[dtype])
        expected, found = reference(hidden_TH, weights), kernel.swiglu(hidden_TH, kernel.pack(weights))
        assert found.dtype == hidden_TH.dtype
        rounding = 16 * torch.finfo(DTYPES[dtype]).eps * expected.norm()
        assert (found.double() - expected).norm() <= rounding, f"{tokens} tokens"


@pytest.mark.parametrize("name", ["upcast", "fused-bf16"])
def test_fp32_activations_keep_fp32_precision(name: str) -> None:
    """16-bit weights lose nothing more on the way: with fp32 activations the error is that of fp32."""
    kernel = next(k for k in make_kernels("bf16") if k.name == name)
    weights, hidden_TH = expert(128, 64, torch.bfloat16), torch.randn(6, 128)
    expected = reference(hidden_TH, weights)
    found = kernel.swiglu(hidden_TH, kernel.pack(weights))
    assert (found.double() - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize(("dtype", "kernel"), CASES, ids=IDS)
def test_linear_computes_the_product(dtype: str, kernel: Any) -> None:
    """The part that experts of other shapes use: x times the transposed weights."""
    weight = torch.randn(37, 64).to(DTYPES[dtype])
    for tokens in (1, 5, 9):
        input_TK = torch.randn(tokens, 64).to(DTYPES[dtype])
        expected = input_TK.double() @ weight.double().t()
        rounding = 16 * torch.finfo(DTYPES[dtype]).eps * expected.norm()
        assert (kernel.linear(input_TK, weight).double() - expected).norm() <= rounding


@pytest.mark.parametrize(("dtype", "kernel"), CASES, ids=IDS)
def test_kernel_is_deterministic(dtype: str, kernel: Any) -> None:
    """Equal inputs, equal bits."""
    weights, hidden_TH = expert(96, 33, DTYPES[dtype]), torch.randn(5, 96).to(DTYPES[dtype])
    results = [kernel.swiglu(hidden_TH, kernel.pack(weights)) for _ in range(5)]
    assert all(torch.equal(results[0], result) for result in results)


def test_fused_kernel_gives_the_same_bits_for_any_number_of_threads() -> None:
    """Rows are summed in one order however they are shared out."""
    from hetsched.cpu_kernels.numba_kernels import FusedBf16

    weights, hidden_TH = expert(96, 37, torch.bfloat16), torch.randn(7, 96)
    kernels = [FusedBf16(threads) for threads in (1, min(2, torch.get_num_threads()))]
    one, two = (kernel.swiglu(hidden_TH, kernel.pack(weights)) for kernel in kernels)
    assert torch.equal(one, two)


def test_lossless_kernels_hold_no_copy_of_the_weights() -> None:
    """Packing makes views: a change of the stored weights shows in the packed ones."""
    for kernel in make_kernels("bf16"):
        weights = expert(64, 48, torch.bfloat16)
        packed, hidden_TH = kernel.pack(weights), torch.ones(1, 64)
        weights.down_HF.zero_()
        assert not kernel.swiglu(hidden_TH, packed).any()


def test_upcast_of_rows_wider_than_its_block() -> None:
    """A block smaller than one row grows instead of failing."""
    weights, hidden_TH = expert(64, 48, torch.bfloat16), torch.randn(3, 64)
    kernel = Upcast(block_bytes=64)
    expected = reference(hidden_TH, weights)
    assert (kernel.swiglu(hidden_TH, kernel.pack(weights)).double() - expected).norm() <= 1e-6 * expected.norm()


def rows(**seconds: tuple[float, float]) -> list[KernelTiming]:
    """Timings of kernels at 1 and 16 tokens."""
    return [KernelTiming(name, n, s) for name, pair in seconds.items() for n, s in zip((1, 16), pair, strict=True)]


def named(*names: str) -> list[Any]:
    return [SimpleNamespace(name=name, weight_bytes=2.0) for name in names]


def test_choice_takes_the_fastest_at_each_count() -> None:
    """One kernel for few tokens, another for many; the reason names both and what they beat."""
    choice = choose(rows(a=(1.0, 9.0), b=(2.0, 3.0)), named("a", "b"))
    assert [choice.at(n).name for n in (1, 15, 16, 500)] == ["a", "a", "b", "b"]
    assert choice.spec == "a@1+b@16"
    assert "b 2000.00 ms" in choice.reason


def test_choice_keeps_the_simpler_kernel_when_it_is_a_tie() -> None:
    """Within a few percent the first, simplest kernel stays; equal winners are merged."""
    choice = choose(rows(simple=(1.0, 1.0), clever=(0.99, 0.98)), named("simple", "clever"))
    assert choice.spec == "simple@1"


def test_choice_survives_its_profile() -> None:
    """The text in a profile gives the same choice again; nonsense is refused with what is allowed."""
    choice = parse_choice("torch-bf16@1+upcast@16", "bf16")
    assert choice.spec == "torch-bf16@1+upcast@16"
    assert choice.at(16).name == "upcast"
    assert parse_choice("upcast", "bf16").at(1).name == "upcast"
    with pytest.raises(UnknownNameError, match="upcast"):
        parse_choice("upcst@1", "bf16")
    with pytest.raises(InputError, match="NAME@TOKENS"):
        parse_choice("upcast@some", "bf16")


def test_chosen_kernel_dispatches_on_tokens() -> None:
    """The composite computes what its parts compute."""
    kernel = ChosenKernel(parse_choice("torch-bf16@1+upcast@4", "bf16"))
    weights = expert(64, 48, torch.bfloat16)
    packed, few, many = kernel.pack(weights), torch.randn(1, 64), torch.randn(8, 64)
    assert torch.equal(kernel.swiglu(many, packed), Upcast().swiglu(many, weights))
    assert not torch.equal(kernel.swiglu(few, packed), Upcast().swiglu(few, weights))


def test_quantised_dtypes_have_no_lossless_kernel() -> None:
    """No kernel pretends to compute int4 exactly; the error lists what there is."""
    assert kernel_names("int4") == []
    with pytest.raises(InputError, match="bf16"):
        make_kernels("int4")


@pytest.mark.parametrize(("name", "low", "high"), [("int8", 1e-4, 0.02), ("int4", 0.02, 0.2)])
def test_lossy_kernels_lose_what_their_bits_cost(name: str, low: float, high: float) -> None:
    """Quantised kernels are near the formula, not on it, and are marked so; fewer bits lose more."""
    kernel = next(kernel for kernel in lossy_kernels() if kernel.name == name)
    weights, hidden_TH = expert(128, 64, torch.bfloat16), torch.randn(4, 128)
    expected = reference(hidden_TH, weights)
    error = (kernel.swiglu(hidden_TH, kernel.pack(weights)).double() - expected).norm() / expected.norm()
    assert low < float(error) < high
    assert not kernel.lossless
    assert name not in {kernel.name for kernel in make_kernels("bf16")}


def test_kernel_table_has_every_kernel_and_a_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row a kernel and count; rates, shares and errors follow from the seconds."""
    from hetsched.machine.profile import ExpertShape
    from hetsched.measure import cpu_kernels, experts

    monkeypatch.setattr(experts, "MIN_POOL_BYTES", 1 << 16)
    monkeypatch.setattr(experts, "cache_bytes", lambda: 1 << 16)
    monkeypatch.setattr(cpu_kernels, "read_bytes_per_s", lambda _: 1e10)
    torch.manual_seed(0)
    found = cpu_kernels.kernel_table(ExpertShape(64, 32, "bf16"), (1, 4), 0.02, lossy=True)
    names = ["torch-fp32", *(kernel.name for kernel in make_kernels("bf16")), "int8", "int4"]
    assert [(row.n, row.kernel) for row in found] == [(n, name) for n in (1, 4) for name in names]
    for row in found:
        weight_bytes = {"torch-fp32": 4, "int8": 1, "int4": 0.625}.get(row.kernel, 2)
        assert row.bytes_per_s == pytest.approx(3 * 64 * 32 * weight_bytes / row.median_s)
        assert row.roof_share == pytest.approx(row.bytes_per_s / 1e10)
        assert row.error < 0.5
