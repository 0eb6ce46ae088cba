"""Routers as numbers, for every architecture: what each would say, which experts it chooses, and who is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import hetsched
from hetsched.engine.sight import Sight
from hetsched.errors import InputError
from hetsched.forecast import NOTHING, Context
from hetsched.forecast.gate_ahead import GateAhead
from hetsched.integrations.expert_modules import expert_modules
from hetsched.integrations.model_shape import layers_of
from hetsched.integrations.routers import routers_of
from hetsched.steering.file import Forced
from hetsched.traces.routers import Routers
from hetsched.types import Demand, Phase
from tests.conftest import tiny_moe
from tests.steering.made import steering_for

from .discovery import expert_classes
from .experts_alone import EMULATED
from .test_models import build, outputs, same

# Routers that are no linear map of what their experts are given, and what is said of them; all others are.
REFUSED = {
    "deepseek_v4.DeepseekV4Experts": "DeepseekV4HashRouter cannot be asked about tokens alone",
    "diffusion_gemma.DiffusionGemmaTextExperts": "DiffusionGemmaTextRouter cannot be asked about tokens alone",
    "gemma4.Gemma4TextExperts": "Gemma4TextRouter cannot be asked about tokens alone",
    "muse_spark.MuseSparkExperts": "MuseSparkTopkRouter does not take what its experts are given",
    "zaya.ZayaExperts": "ZayaRouter computes 4 linear maps that could be its logits",
}
# Those that choose within groups: all experts are ranked together, so that some of the chosen are not the highest.
EXACT = ("mixtral.MixtralExperts", "gpt_oss.GptOssExperts", "afmoe.AfmoeExperts", "qwen3_moe.Qwen3MoeExperts")
EXACT = (*EXACT, "minimax_m2.MiniMaxM2Experts", "granitemoe.GraniteMoeExperts", "ernie4_5_moe.Ernie4_5_MoeExperts")
GATED: dict[str, Any] = {**EMULATED, "policy": "hetsched", "forecaster": "gate-ahead"}


def read(model: Any) -> Routers:
    return routers_of(model, layers_of(expert_modules(model)))


def with_biases(model: Any) -> Any:
    """Buffers of a number per expert are zero in a new model, and would show nothing."""
    random = torch.Generator().manual_seed(3)
    for buffer in model.buffers():
        if buffer.is_floating_point() and buffer.shape == (8,):
            buffer.copy_(0.3 * torch.randn(8, generator=random))
    return model


def given_to(model: Any) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """By layer: hidden states and ids that the experts are given in a forward pass."""
    seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def watch(layer: int) -> Any:
        def see(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = dict(zip(("hidden_states", "top_k_index"), args, strict=False)) | kwargs
            seen[layer] = given["hidden_states"].detach().float().numpy(), given["top_k_index"].numpy()

        return see

    for layer, module in enumerate(expert_modules(model)):
        module.register_forward_pre_hook(watch(layer), with_kwargs=True)
    with torch.no_grad():
        model(input_ids=torch.arange(3, 12)[None])
    return seen


@pytest.mark.parametrize("name", sorted({*expert_classes()} - {*REFUSED}))
def test_what_is_read_ranks_the_experts(name: str) -> None:
    """The model is left as it was, and every number is one."""
    torch.manual_seed(0)
    model = build(name)
    before = outputs(model)
    routers = read(model)
    assert len(routers.weight) == len(layers_of(expert_modules(model)))
    assert np.isfinite(routers.weight).all()
    assert same(outputs(model), before)


@pytest.mark.parametrize("name", EXACT)
def test_gates_are_the_routers_own(name: str) -> None:
    """Of a layer's own input: the likeliest experts are the chosen ones, token by token, biases for the choice too."""
    torch.manual_seed(0)
    model = with_biases(build(name))
    routers = read(model)
    for layer, (hidden_TH, ids_TK) in given_to(model).items():
        gates_TE = routers.of(range(layer, layer + 1), layer, hidden_TH, 8)[0]
        likeliest_TK = np.argsort(-gates_TE, axis=1)[:, : ids_TK.shape[1]]
        assert [set(row) for row in likeliest_TK.tolist()] == [set(row) for row in ids_TK.tolist()]


def test_gates_are_probabilities() -> None:
    """Softmax of the logits; sigmoid plus the bias for the choice, where that is the class's way."""
    model = build("mixtral.MixtralExperts")
    routers, given = read(model), given_to(model)
    gate = model.model.layers[1].mlp.gate
    expected = torch.softmax(torch.from_numpy(given[1][0]) @ gate.weight.T, -1).detach().numpy()
    np.testing.assert_allclose(routers.of(range(1, 2), 1, given[1][0], 8)[0], expected, rtol=1e-4)
    model = with_biases(build("deepseek_v3.DeepseekV3Experts"))
    routers, given = read(model), given_to(model)
    gate = model.model.layers[1].mlp.gate  # the first MoE layer
    logits = torch.from_numpy(given[0][0]) @ gate.weight.T
    expected = (logits.sigmoid() + gate.e_score_correction_bias).clamp(min=0).detach().numpy()
    np.testing.assert_allclose(routers.of(range(1), 0, given[0][0], 8)[0], expected, rtol=1e-4, atol=1e-6)


def test_the_next_layers_own_normalisation_is_applied() -> None:
    """What a layer ahead would say of the stream as this layer's router has it: one gain off, the other on."""
    model = build("qwen3_moe.Qwen3MoeExperts")
    hidden_TH, layers = given_to(model)[0][0], model.model.layers
    gain_0, gain_2 = (layers[l].post_attention_layernorm.weight.detach().numpy() for l in (0, 2))
    logits = (hidden_TH / gain_0 * gain_2) @ layers[2].mlp.gate.weight.detach().numpy().T
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ahead = read(model).ahead(0, hidden_TH, 3, 8)
    assert ahead.shape == (2, len(hidden_TH), 8)
    np.testing.assert_allclose(ahead[1], expected, rtol=1e-3)
    assert read(model).ahead(2, hidden_TH, 3, 8).shape == (0, len(hidden_TH), 8)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_who_is_no_linear_map_is_refused(name: str) -> None:
    """At attach, in one line; the model is as it was."""
    torch.manual_seed(0)
    model = build(name)
    before = outputs(model)
    with pytest.raises(InputError) as caught:
        hetsched.attach(model, **GATED)
    assert REFUSED[name] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same(outputs(model), before)


@pytest.mark.parametrize("name", [*EXACT[:3], "deepseek_v3.DeepseekV3Experts"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attached_models_foresee_and_stay_exact(name: str, dtype: torch.dtype, monkeypatch: Any) -> None:
    """Tokens and logits are eager's, bit for bit; at every layer the forecaster is given the next routers' gates."""
    torch.manual_seed(0)
    model = build(name).to(dtype)
    eager, seen = outputs(model), list[tuple[int, Context]]()
    own = Sight.of
    monkeypatch.setattr(Sight, "of", lambda self, demand: (seen.append((demand.layer, c := own(self, demand))), c)[1])
    with hetsched.attach(model, **GATED) as handle:
        scheduled = outputs(model)
        assert handle.stats()["forecaster"] == "gate-ahead"
        assert handle.stats()["faults"] == {} or not any(handle.stats()["faults"].values())
    assert same(scheduled, eager)
    layers = len(layers_of(expert_modules(model)))
    assert {layer for layer, _ in seen} == set(range(layers))
    for layer, context in seen:
        assert context.hidden_TH is not None
        assert context.gates_DTE is not None
        assert context.gates_DTE.dtype == np.float32
        assert context.gates_DTE.shape == (min(3, layers - 1 - layer), len(context.hidden_TH), 8)


def test_steered_models_have_steered_gates() -> None:
    """As the steered router says of its own input, forced experts first and last."""
    model = tiny_moe()
    steering = steering_for(model, {1: Forced((1,), (2, 3))})
    free = read(model)
    with hetsched.attach(model, steer=steering, **GATED) as handle:
        steered = handle.engine.sight.routers
        hidden_TH = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
        gates_TE = steered.of(range(1, 2), 1, hidden_TH, 8)[0]
        with torch.no_grad():
            said_TE, *_ = model.model.layers[1].mlp.gate.forward(torch.from_numpy(hidden_TH))
    np.testing.assert_allclose(gates_TE, torch.softmax(said_TE, -1).numpy(), rtol=1e-4)
    assert (gates_TE.argmax(axis=1) == 1).all()
    assert (np.sort(np.argsort(gates_TE, axis=1)[:, :2], axis=1) == [2, 3]).all()
    np.testing.assert_array_equal(steered.ahead(1, hidden_TH, 1, 8), free.ahead(1, hidden_TH, 1, 8))


def test_long_steps_have_no_gates_and_their_last_states() -> None:
    """65 tokens: nothing is computed of the routers, and what is shown ends with the last token."""
    model, shown = tiny_moe(), list[Context]()

    class Noting(GateAhead):
        needs = frozenset({"gates", "hidden"})

        def observe(self, demand: Any, context: Context = NOTHING) -> None:
            shown.append(context)
            super().observe(demand, context)

    with hetsched.attach(model, **{**GATED, "forecaster": Noting}), torch.no_grad():
        model(input_ids=torch.arange(65)[None])
    assert [context.gates_DTE for context in shown] == [None] * 3
    assert all(context.hidden_TH is not None and context.hidden_TH.shape == (64, 32) for context in shown)


def test_nothing_is_looked_at_where_nobody_needs_it() -> None:
    with hetsched.attach(tiny_moe(), **{**GATED, "forecaster": "ewma"}) as handle:
        assert handle.engine.sight is None


def test_other_needs_are_refused_in_a_line() -> None:
    with pytest.raises(InputError, match=r"forecaster .* needs future") as caught:
        hetsched.attach(tiny_moe(), **{**GATED, "forecaster": "oracle"})
    assert "\n" not in str(caught.value)


def test_states_on_a_device_are_brought() -> None:
    """Only the last tokens set out, at once; they are waited for when the forecaster learns, and of no other layer."""
    sight, asked = Sight(), list[tuple[int, ...]]()

    class Arriving:
        def result(self) -> torch.Tensor:
            return torch.full((64, 4), 2.0, dtype=torch.bfloat16)

    def bring(tensor: torch.Tensor) -> Any:
        asked.append(tuple(tensor.shape))
        return Arriving()

    sight.show(1, torch.empty((70, 4), device="meta"), bring)
    assert asked == [(64, 4)]
    seen = sight.of(Demand(0, 1, Phase.PREFILL, np.full(8, 35), 70))
    assert seen.hidden_TH is not None
    assert (seen.hidden_TH == 2.0).all()
    assert sight.of(Demand(0, 2, Phase.PREFILL, np.full(8, 35), 70)) is NOTHING
