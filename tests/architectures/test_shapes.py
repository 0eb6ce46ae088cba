"""Models whose experts are not one stack of equal layers: tied, of different widths or counts, late, or elsewhere."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import hetsched
from hetsched.errors import InputError
from hetsched.plugins import installed
from hetsched.residency import State

from .discovery import MODELS, expert_class, modeling
from .experts_alone import EMULATED, Stack, config, hidden, routing, stack
from .overrides import CHANGES
from .tiny import randomised, tiny_config

MIXTRAL = expert_class("mixtral.MixtralExperts")


def uneven(*counts: int, ffn: int = 24) -> Stack:
    """Layers with different numbers of experts, and the first of them wider."""
    widths = [2 * ffn, *[ffn] * (len(counts) - 1)]
    made = [MIXTRAL(config(num_local_experts=e, intermediate_size=f)) for e, f in zip(counts, widths, strict=True)]
    return randomised(Stack(*made))  # type: ignore[return-value]


@pytest.mark.parametrize("policy", sorted({*installed("hetsched.policies")} - {"belady"}))
def test_experts_that_do_not_exist_are_never_resident(policy: str) -> None:
    """Residency is [L, E_max]; whatever the strategy, experts that a layer lacks stay so, and the bits are right."""
    made = uneven(4, 8, 4)
    with torch.no_grad():
        given = [(hidden(made.layers[0], tokens), *routing(tokens, experts=4, top_k=2)) for tokens in (6, 1, 1, 5)]
        eager = [made(*one) for one in given]
        with hetsched.attach(made, **{**EMULATED, "policy": policy, "gpu_memory": "75%"}) as handle:
            scheduled = [made(*one) for one in given]
            state_LE = handle.scheduler.residency.state_LE
            assert handle.geometry.experts_L == (4, 8, 4)
            assert handle.scheduler.residency.num_slots == 12
            assert (state_LE[[0, 2], 4:] == State.NO_EXPERT).all()
            assert (state_LE[1] != State.NO_EXPERT).all()
            assert handle.scheduler.policy.name == policy
    assert all(torch.equal(a, b) for a, b in zip(eager, scheduled, strict=True))


def test_slots_are_as_large_as_the_largest_expert_and_the_waste_is_said() -> None:
    made = uneven(8, 8)
    with hetsched.attach(made, **EMULATED) as handle:
        assert handle.geometry.expert_bytes == 3 * 32 * 48 * 4
        assert handle.engine.store.num_bytes == 8 * 3 * 32 * (48 + 24) * 4
        assert handle.stats()["slot_waste_share"] == pytest.approx(0.25)


def diffusion_gemma() -> Any:
    module = modeling("diffusion_gemma")
    changes = CHANGES["diffusion_gemma"] | {"tie_word_embeddings": True}
    return randomised(module.DiffusionGemmaModel(tiny_config(module.DiffusionGemmaConfig, changes)))


def test_tied_experts_are_stored_once_and_stay_tied() -> None:
    """diffusion_gemma: encoder and decoder are two stacks over the same parameters."""
    model = diffusion_gemma()
    ids = torch.arange(3, 12)[None]
    encoder, decoder = model.encoder, model.decoder
    own = [(name, p.data_ptr()) for name, p in model.named_parameters(remove_duplicate=False) if "experts.down" in name]
    assert len(own) == 2 * len({pointer for _, pointer in own})
    with torch.no_grad():
        eager = encoder(input_ids=ids)[0]
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with hetsched.attach(model, **EMULATED) as handle:
            assert torch.equal(encoder(input_ids=ids)[0], eager)
            assert handle.stats()["modules"] == 2 * handle.geometry.num_layers == len(own)
            assert handle.engine.store.num_bytes == handle.geometry.total_expert_bytes
    pointers = {
        name: p.data_ptr() for name, p in model.named_parameters(remove_duplicate=False) if "experts.down" in name
    }
    assert len(pointers) == 2 * len(set(pointers.values()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert decoder.config is not None


def test_modules_with_tied_storage_share_a_layer() -> None:
    """Two modules over the same memory, both called in one pass."""
    made = stack(MIXTRAL, layers=3)
    for name in ("gate_up_proj", "down_proj"):
        getattr(made.layers[2], name).data = getattr(made.layers[0], name).data
    given = hidden(made.layers[0], 6), *routing(6)
    with torch.no_grad():
        eager = made(*given)
        with hetsched.attach(made, **EMULATED) as handle:
            assert torch.equal(made(*given), eager)
            assert handle.geometry.num_layers == 2
            assert handle.stats()["modules_served"] == 3
        assert torch.equal(made(*given), eager)
    assert made.layers[0].down_proj.data_ptr() == made.layers[2].down_proj.data_ptr()


def test_experts_on_meta_are_taken_once_loaded() -> None:
    """attach before loading works; running before loading is an error that says so."""
    loaded = stack(MIXTRAL)
    given = hidden(loaded.layers[0], 6), *routing(6)
    with torch.device("meta"):
        made = Stack(MIXTRAL(config()), MIXTRAL(config())).eval()
    with torch.no_grad(), hetsched.attach(made, **EMULATED) as handle:
        with pytest.raises(InputError, match="on meta"):
            made(*given)
        made.load_state_dict(loaded.state_dict(), assign=True)
        assert torch.equal(made(*given), loaded(*given))
        assert handle.engine.store.num_bytes == handle.geometry.total_expert_bytes
    with torch.no_grad():
        assert torch.equal(made(*given), loaded(*given))


def test_modules_made_after_attach_are_computed_by_transformers() -> None:
    """As multi-token prediction does: a copied config, a new module, no schedule, counted."""
    made = stack(MIXTRAL)
    given = hidden(made.layers[0], 6), *routing(6)
    with torch.no_grad(), hetsched.attach(made, **EMULATED) as handle:
        late = randomised(MIXTRAL(copy.deepcopy(made.config)))
        ours = late(*given)
        assert handle.stats()["eager_calls"] == 1
        assert hetsched.attachment_of(late) is None
        late.config._experts_implementation = "eager"
        assert torch.equal(ours, late(*given))


def test_a_module_that_runs_elsewhere_is_an_error() -> None:
    made = stack(MIXTRAL)
    given = hidden(made.layers[0], 2), *routing(2)
    with torch.no_grad(), hetsched.attach(made, **EMULATED):
        made.layers[1].config._experts_implementation_internal = "eager"
        with pytest.raises(InputError, match=r"layer 1 .* would run outside hetsched, with implementation 'eager'"):
            made(*given)


UNDISPATCHED = {
    "dbrx": "DbrxExperts",
    "jetmoe": "JetMoeParallelExperts",
    "llama4": "Llama4TextExperts",
    "longcat_flash": "LongcatFlashExperts",
    "nllb_moe": "NllbMoeExperts",
    "step3p7": "Step3p7Experts",
    "switch_transformers": "SwitchTransformersExperts",
}


@pytest.mark.parametrize(("package", "kind"), UNDISPATCHED.items())
def test_experts_that_transformers_does_not_dispatch_are_refused(package: str, kind: str) -> None:
    """The error names the class and the trait that it lacks."""
    experts = getattr(modeling(package), kind)
    made = torch.nn.Module()
    made.mlp = experts.__new__(experts)
    torch.nn.Module.__init__(made.mlp)
    with pytest.raises(InputError, match=f"mlp is a {kind}, which lacks .*use_experts_implementation") as caught:
        hetsched.attach(made, **EMULATED)
    assert "\n" not in str(caught.value)


def test_no_other_architecture_hides_its_experts() -> None:
    """Every undecorated class that ends in Experts is either refused or a shared expert."""
    found = set()
    for path in MODELS.glob("*/modeling_*.py"):
        decorated = False
        for line in path.read_text().splitlines():
            if line.startswith("@"):
                decorated |= "use_experts_implementation" in line
            elif line.startswith("class "):
                name = line[6:].partition("(")[0].rstrip(":")
                if name.endswith("Experts") and not decorated and "Shared" not in name:
                    found.add(name)
                decorated = False
    assert found == set(UNDISPATCHED.values())
