"""Linear maps outside the experts: our product within rounding, torch's where it must be, and nothing left behind."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters

import hetsched
from hetsched.cpu_kernels.packed.dense import DenseProduct, matrix_of
from hetsched.errors import InputError, UnknownNameError
from hetsched.integrations.dense_linear import DenseLinear, DenseLinears, Way, dense_linears
from hetsched.measure import dense_kernels
from hetsched.measure.dense_kernels import DenseTiming, Key, choose_dense, served
from hetsched.measure.timing import Timing
from tests.architectures.test_models import build
from tests.conftest import tiny_moe

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
PACKED: dict[str, Any] = {"hardware": "cpu", "cpu_kernel": "eager", "dense_kernel": "packed"}
IDS = torch.arange(3, 8)[None]


def taken(model: Any) -> list[str]:
    """Names of modules whose forward is ours."""
    return [name for name, module in model.named_modules() if isinstance(module.__dict__.get("forward"), DenseLinear)]


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits
    return found


def wrapped(columns: int = 64, rows: int = 37, bias: bool = True, most: int = 8) -> torch.nn.Linear:
    """A linear module in bf16 with our forward."""
    torch.manual_seed(0)
    module = torch.nn.Linear(columns, rows, bias=bias).bfloat16().requires_grad_(False)
    module.__dict__["forward"] = DenseLinear(module._parameters, Way(most))
    return module


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every product that is ours, from now on."""
    seen: list[int] = []
    into = DenseProduct.into

    def counted(product: DenseProduct, out: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None) -> None:
        seen.append(x.numel() // x.shape[-1])
        into(product, out, x, bias)

    monkeypatch.setattr(DenseProduct, "into", counted)
    return seen


def torchs(module: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, module.weight, module.bias)


@HALVES
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 37, 200])
def test_the_product_is_rounded_once(dtype: torch.dtype, bias: bool, rows: int) -> None:
    """Of double precision within half a unit in the last place and what fp32 sums lose."""
    weight, bias_N = torch.randn(rows, 96).to(dtype), torch.randn(rows).to(dtype) if bias else None
    matrix = matrix_of(weight)
    assert matrix is not None
    for tokens in (1, 2, 3, 4, 5, 8):
        x, out = torch.randn(tokens, 96).to(dtype), torch.full((tokens, rows), torch.nan, dtype=dtype)
        DenseProduct(matrix, dtype).into(out, x, bias_N)
        exact = x.double() @ weight.double().t() + (0 if bias_N is None else bias_N.double())
        assert ((out.double() - exact).abs() <= 0.51 * torch.finfo(dtype).eps * exact.abs() + 1e-5).all()


@HALVES
def test_a_token_has_the_same_bits_in_any_company(dtype: torch.dtype) -> None:
    matrix = matrix_of(torch.randn(70, 64).to(dtype))
    assert matrix is not None
    x = torch.randn(8, 64).to(dtype)
    alone, together = torch.empty(8, 70, dtype=dtype), torch.empty(8, 70, dtype=dtype)
    product = DenseProduct(matrix, dtype)
    product.into(together, x, None)
    for t in range(8):
        product.into(alone[t : t + 1], x[t : t + 1], None)
    assert torch.equal(alone, together)


def test_only_what_can_be_read_where_it_lies() -> None:
    """No copy is ever made of a weight, so others are left to torch."""
    weight = torch.randn(64, 64).bfloat16()
    assert matrix_of(weight) is not None
    for other in (weight.float(), weight.t(), weight[:, :40], weight.to("meta"), torch.randn(8, 33).half(), weight[0]):
        assert matrix_of(other) is None


@pytest.mark.parametrize(
    "name",
    [
        "qwen2_moe.Qwen2MoeExperts",
        "mixtral.MixtralExperts",
        "gpt_oss.GptOssExperts",
        "deepseek_v3.DeepseekV3Experts",
        "olmoe.OlmoeExperts",
    ],
)
@HALVES
def test_models_compute_the_same_within_rounding(name: str, dtype: torch.dtype, ours: list[int]) -> None:
    """Attention, shared experts and head are ours, the logits torch's but for rounding, and its bits after detach()."""
    model = build(name).to(dtype)
    with torch.no_grad():  # no token is near to another choice of experts
        for parameter in model.parameters():
            parameter.mul_(0.5)
    expected = logits(model)
    with hetsched.attach(model, **PACKED) as handle:
        found = logits(model)
        assert len(ours) == len(taken(model)) >= 4 * 3 + 1
        assert handle.stats()["dense_kernel"] == "packed"
    assert (found.double() - expected.double()).norm() < 0.05 * expected.double().norm()
    assert not taken(model)
    assert torch.equal(logits(model), expected)


def test_eager_stays_eager() -> None:
    """cpu_kernel="eager" keeps every bit of the dense part, too, and so does dense_kernel="torch"."""
    model = tiny_moe().bfloat16()
    expected = logits(model)
    for options in ({"cpu_kernel": "eager"}, {"cpu_kernel": "eager", "dense_kernel": "torch"}):
        with hetsched.attach(model, hardware="cpu", **options) as handle:
            assert not taken(model)
            assert handle.stats()["dense_kernel"] == "torch"
            assert torch.equal(logits(model), expected)


def test_hooks_are_called() -> None:
    """On the modules, before and after, with what goes in and comes out; and by the argument's name."""
    module, seen = wrapped(), []
    module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((*args, *kwargs.values())[0].shape), with_kwargs=True
    )
    module.register_forward_hook(lambda _, args, out: out * 2)
    x = torch.randn(2, 1, 64).bfloat16()
    with torch.no_grad():
        assert torch.equal(module(x), 2 * module.forward(x))
        assert torch.equal(module(input=x), 2 * module.forward(x))
    assert seen == [(2, 1, 64)] * 2


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_what_torch_must_see_is_torchs(ours: list[int]) -> None:
    """Gradients, autocast, many tokens, another dtype, traces, transforms: bit for bit what torch computes."""
    module, x = wrapped(), torch.randn(3, 64).bfloat16()
    with torch.no_grad():
        assert torch.equal(module(x), module(x.repeat(2, 1))[:3])
        assert ours == [3, 6]  # or the rest of this test would say nothing
        many = torch.randn(9, 64).bfloat16()
        assert torch.equal(module(many), torchs(module, many))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(module(x), torchs(module, x))
        traced = torch.jit.trace(module, (x,), check_trace=False)
        assert torch.equal(traced(-x), torchs(module, -x))
        assert torch.equal(torch.func.vmap(module)(x), torch.func.vmap(lambda x: torchs(module, x))(x))
        with pytest.raises(RuntimeError):
            module(x.float())
        with pytest.raises(RuntimeError):
            module(x[:, :32])
    learning = x.clone().requires_grad_()
    module(learning).float().sum().backward()  # type: ignore[no-untyped-call]
    assert learning.grad is not None
    assert torch.equal(module(torch.randn(0, 64).bfloat16()), torch.empty(0, 37).bfloat16())
    assert ours == [3, 6]


def test_a_replaced_weight_is_noticed() -> None:
    """By another parameter, another memory, another shape at the same place, or another dtype."""
    module, x = wrapped(bias=False), torch.randn(1, 64).bfloat16()
    with torch.no_grad():
        before = module(x)
        module.weight.neg_()
        assert torch.equal(module(x), -before)
        module.weight = torch.nn.Parameter(-module.weight, requires_grad=False)
        assert torch.equal(module(x), before)
        module.load_state_dict({"weight": -module.weight.detach()}, assign=True)
        assert torch.equal(module(x), -before)
        module.weight.data = module.weight.data[:8]
        assert torch.equal(module(x), -before[:, :8])
        module.weight.data = module.weight.data.float()
        assert torch.equal(module(x.float()), torchs(module, x.float()))


def test_copies_are_refused_and_saving_is_not() -> None:
    model = tiny_moe().bfloat16()
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    with hetsched.attach(model, **PACKED):
        for copied in (copy.deepcopy, pickle.dumps):
            with pytest.raises(InputError, match="detach"):
                copied(model.lm_head)  # type: ignore[operator]
        state = model.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert torch.equal(copy.deepcopy(model.lm_head).weight, model.lm_head.weight)


def test_a_forward_of_somebody_elses_stays() -> None:
    """Nor is a subclass taken, or what belongs to an expert module."""
    model = tiny_moe().bfloat16()
    mine, other = model.model.layers[0].self_attn.q_proj, model.model.layers[1].self_attn

    class Doubled(torch.nn.Linear):
        pass

    other.k_proj.__class__ = Doubled
    mine.forward = lambda x: torchs(mine, x)
    with hetsched.attach(model, **PACKED):
        assert isinstance(model.lm_head.__dict__["forward"], DenseLinear)
        names = taken(model)
        assert "model.layers.0.self_attn.q_proj" not in names
        assert "model.layers.1.self_attn.k_proj" not in names
        assert not any(".experts" in name for name in names)
    assert "forward" in mine.__dict__


def test_a_tied_head_is_left_in_place() -> None:
    model = tiny_moe().bfloat16()
    model.lm_head.weight = model.model.embed_tokens.weight
    with hetsched.attach(model, **PACKED):
        assert "lm_head" in taken(model)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        before = logits(model)
        with torch.no_grad():
            model.lm_head.weight.mul_(2)
        assert not torch.equal(logits(model), before)


@pytest.fixture
def _compiled_for_this_test() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("_compiled_for_this_test")
def test_compiled_models_keep_torchs_products() -> None:
    """One graph, in which the linear maps are torch's; after detach() it follows."""
    module, x = wrapped(), torch.randn(2, 64).bfloat16()
    compiled = torch.compile(lambda x: module(x) + 1, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(x), torchs(module, x) + 1)
        del module.__dict__["forward"]
        assert torch.equal(compiled(x), torchs(module, x) + 1)
    assert not counters["graph_break"]


def test_ours_serves_up_to_where_torchs_is_faster() -> None:
    """And not beyond, even where ours was faster again; a hair's breadth is no reason."""
    assert served([DenseTiming(1, 1.0, 2.0), DenseTiming(2, 1.0, 1.5), DenseTiming(4, 3.0, 2.0)]) == 2
    assert served([DenseTiming(1, 2.0, 1.0), DenseTiming(2, 1.0, 9.0)]) == 0
    assert served([DenseTiming(1, 0.99, 1.0)]) == 0
    assert served([]) == 0


def test_a_choice_measures_the_models_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shape by itself, small ones not at all; what was measured ran."""
    monkeypatch.setattr(dense_kernels, "SMALLEST", 64 * 64 * 2)
    seconds = {(64, 64): (1.0, 2.0), (128, 64): (2.0, 1.0)}
    seen: list[tuple[int, int]] = []

    def pretend(calls: Any, budget_s: float) -> list[Timing]:
        for call in calls:
            call(0)
            call(3)
        shape = (64, 64) if len(seen) < 4 else (128, 64)
        seen.append(shape)
        return [Timing(median_s, 0.0, 0.0, 5) for median_s in seconds[shape]]

    monkeypatch.setattr(dense_kernels, "time_together", pretend)
    weights = {Key(n, 64, torch.bfloat16): [torch.randn(n, 64).bfloat16() for _ in range(2)] for n in (64, 128, 8)}
    choice = choose_dense(weights)
    assert [choice.most[Key(n, 64, torch.bfloat16)] for n in (64, 128, 8)] == [8, 0, 0]
    assert seen == [(64, 64)] * 4 + [(128, 64)]
    assert "64 x 64: packed up to 8 tokens" in choice.reason
    assert "128 x 64: torch" in choice.reason


def test_names_are_checked() -> None:
    model = tiny_moe().bfloat16()
    with pytest.raises(UnknownNameError, match="did you mean 'packed'"):
        hetsched.attach(model, hardware="cpu", dense_kernel="packet")
    with pytest.raises(InputError, match="GPU"):
        hetsched.attach(model, hardware="rtx-4060-laptop-8gb", dense_kernel="auto")
    assert not taken(model)


def test_taking_off_twice_and_only_what_was_put_on() -> None:
    """An interrupt may have come in between."""
    model = tiny_moe().bfloat16()
    ways = {key: Way(8) for _, key in dense_linears(model)}
    linears = DenseLinears()
    linears.put_on(model, ways)
    assert taken(model)
    del model.lm_head.__dict__["forward"]
    linears.take_off()
    linears.take_off()
    assert not taken(model)
