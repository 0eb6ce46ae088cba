"""torch.compile around an attached model: one graph whose experts are an operator, the same tokens, and undone.

Backend "eager" runs the graphs that Inductor would compile, operation by operation: what is in question is where they
break and what the operator does in them, and Inductor takes a C++ compiler and a minute.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig, Qwen3MoeConfig, Qwen3MoeForCausalLM

import hetsched
from hetsched.errors import InputError
from hetsched.integrations.expert_modules import expert_modules, own_forward
from hetsched.integrations.places import place_of
from tests.architectures.discovery import expert_class
from tests.architectures.experts_alone import hidden, routing, stack
from tests.conftest import tiny_moe

from .generating import ALONE, EMULATED, HERE, generated, same

LAYERS, NEW = 2, 4


@pytest.fixture(autouse=True)
def _compiled_for_this_test() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture
def qwen() -> Any:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        moe_intermediate_size=16,
        num_experts=8,
        num_experts_per_tok=2,
        initializer_range=0.3,
        experts_implementation="eager",
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return Qwen3MoeForCausalLM(config).eval()


def static(model: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy tokens and logits with a static cache, one prompt."""
    return generated(model, ALONE, NEW, cache_implementation="static", **options)


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@torch.library.custom_op("hetsched_tests::eager_experts", mutates_args=())
def eager_experts(hidden_TH: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor, name: int) -> torch.Tensor:
    """transformers' own eager experts as an operator, so that they too leave the graph whole."""
    module = TWINS[name]
    out_TH: torch.Tensor = own_forward(module)(module, hidden_TH, ids_TK, weights_TK)
    return out_TH


@eager_experts.register_fake
def _(hidden_TH: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(hidden_TH)


TWINS: list[Any] = []


def with_eager_experts(model: Any) -> Any:
    """The model, ready to be compiled into one graph that differs from hetsched's in nothing but the experts."""
    for module in expert_modules(model):
        module.forward = partial(_twins_forward, len(TWINS))
        TWINS.append(module)
    return model


def _twins_forward(name: int, *given: torch.Tensor) -> Any:
    return eager_experts(*given, name)


def negate(model: Any) -> None:
    """Write to the second layer's experts; twice is as never."""
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj.neg_()


def test_one_graph_and_the_tokens_of_the_compiled_eager_model(qwen: Any) -> None:
    """Without breaks, for the prompt and for every token after it; steps and written weights are noticed as ever."""
    plain, twin = static(qwen), with_eager_experts(copy.deepcopy(qwen))
    twin.forward = torch.compile(twin.forward, backend="eager", fullgraph=True)
    eager = static(twin)
    counters.clear()
    with hetsched.attach(qwen, **EMULATED) as handle:
        qwen.forward = torch.compile(qwen.forward, backend="eager", fullgraph=True)
        assert same(static(qwen), eager)
        assert not counters["graph_break"]
        assert graphs() == 2
        assert (handle.stats()["steps"], handle.stats()["layers"]) == (NEW, NEW * LAYERS)
        negate(qwen)
        negate(twin)
        assert same(static(qwen), static(twin))
        handle.engine.check()
    del qwen.forward
    negate(qwen)
    assert same(static(qwen), plain)
    assert plain[0].tolist() == eager[0].tolist()


def test_what_was_compiled_follows_detach_and_attach() -> None:
    """The same compiled function: under hetsched, as transformers computes, under another attachment."""
    made: Any = stack(expert_class("mixtral.MixtralExperts"))
    given = hidden(made.layers[0], 5), *routing(5)
    compiled: Any = torch.compile(made.forward, backend="eager")
    with torch.no_grad():
        eager = made(*given)
        for layer in made.layers:
            layer.config._experts_implementation = "batched_mm"  # eager's loop would take seconds to compile
        batched = made(*given)
        for _ in range(2):
            with hetsched.attach(made, **EMULATED) as handle:
                assert torch.equal(compiled(*given), eager)
                assert handle.stats()["layers"] == 2
            assert torch.equal(compiled(*given), batched)
    assert not torch.equal(batched, eager)


def test_autocast_and_gradients() -> None:
    """Casts are those of the compiled code's surroundings; asking for a gradient is an error."""
    made: Any = stack(expert_class("mixtral.MixtralExperts"))
    given = hidden(made.layers[0], 5), *routing(5)
    for backend in ("eager", "aot_eager"):
        compiled: Any = torch.compile(made.forward, backend=backend)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            eager = made(*given)
            with hetsched.attach(made, **EMULATED):
                assert torch.equal(compiled(*given), eager)
    with hetsched.attach(made, **EMULATED), pytest.raises(InputError, match="keeps no gradients of experts"):
        compiled(*given).sum().backward()


def test_generate_compiles_a_model_by_itself(qwen: Any) -> None:
    """As it does on a GPU with a static cache: its hooks stay out of the graph, and the rest of a token is one."""
    eager, logits = static(qwen)
    config = CompileConfig(backend="eager", mode=None)
    config._compile_all_devices = True
    with hetsched.attach(qwen, **HERE) as handle:
        tokens, compiled_logits = static(qwen, compile_config=config)
        assert graphs() == 1
        assert (handle.stats()["steps"], handle.stats()["layers"]) == (NEW, NEW * LAYERS)
    assert torch.equal(tokens, eager)
    torch.testing.assert_close(compiled_logits, logits)  # in a graph transformers masks in another way
    assert same(static(qwen), (eager, logits))


def test_the_operator_keeps_what_it_declares() -> None:
    """Schema, shape and layout of the result, also for hidden states that lie otherwise."""
    model = tiny_moe(layers=1)
    experts = expert_modules(model)[0]
    with torch.no_grad(), hetsched.attach(model, **EMULATED):
        place = place_of(experts)
        assert place is not None
        hidden_TH = torch.randn(32, 5).T
        given = hidden_TH, torch.tensor([[0, 3, 5, 7]] * 5), torch.rand(5, 4), place.number, None
        torch.library.opcheck(torch.ops.hetsched.experts, given)
        number = place.number
    del place
    assert torch.Tag.cudagraph_unsafe in torch.ops.hetsched.experts.default.tags
    with pytest.raises(InputError, match="ran after detach"):
        torch.ops.hetsched.experts(*given[:3], number, None)
