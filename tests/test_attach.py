"""attach(): the same bits as eager, the model restored exactly, and nothing shared between models."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import hetsched
from hetsched.accelerators.base import LaneError
from hetsched.accelerators.emulated.device import EmulatedAccelerator
from hetsched.errors import InputError, UnknownNameError
from hetsched.integrations.expert_modules import expert_modules
from hetsched.learned import load
from hetsched.machine.gallery import machine
from hetsched.plugins import installed
from hetsched.policies.static import StaticFrequency
from hetsched.policy import View
from hetsched.types import Demand, Fetch
from tests.conftest import tiny_moe

HERE = {"hardware": "cpu", "gpu_memory": None, "time_scale": None}
FAST = {"hardware": "rtx-4060-laptop-8gb", "time_scale": 1.0}
CLAIRVOYANT = {"belady"}  # in a running model nobody knows the future
POLICIES = sorted({*installed("hetsched.policies")} - CLAIRVOYANT)


def generated(model: Any, prompt: torch.Tensor | None = None, **options: Any) -> tuple[list[list[int]], torch.Tensor]:
    """Greedy tokens and their logits."""
    prompt = torch.arange(3, 15)[None] if prompt is None else prompt
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None} | options
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return out.sequences.tolist(), torch.stack(out.logits)


@pytest.mark.parametrize(
    ("policy", "gpu_memory"),
    [
        *((policy, "25%") for policy in POLICIES),
        *((policy, share) for policy in ("hetsched", "on-demand-lru") for share in ("5%", "100%")),
    ],
)
def test_bits_are_those_of_eager(model: Any, policy: str, gpu_memory: str) -> None:
    """Whatever strategy moves experts around, tokens and logits are those of eager, bit for bit."""
    tokens, logits = generated(model)
    with hetsched.attach(model, **FAST, gpu_memory=gpu_memory, policy=policy) as handle:
        scheduled_tokens, scheduled_logits = generated(model)
        handle.scheduler.residency.check()
        assert handle.stats()["layers"] == 3 * 12
    assert scheduled_tokens == tokens
    assert torch.equal(scheduled_logits, logits)


class InPython(StaticFrequency):
    """One that is asked in Python, for a method is its own."""

    name = "in-python"

    def prefetch(self, demand: Demand, view: View) -> list[Fetch]:
        return []


@pytest.mark.parametrize("policy", ["hetsched", "hybrimoe", InPython, None])
@pytest.mark.parametrize("ids", [[[5, 2]], [[8, 2]], [[8, 8]], [[3, 3]], [[5, 2], [8, 7], [2, 2]], [[8, 8], [8, 8]]])
def test_ids_of_no_expert_add_nothing(model: Any, policy: Any, ids: list[list[int]]) -> None:
    """As on one rank of several; a token may have an expert twice. Ids in 32 bits, or not in a row, are as good."""
    module = expert_modules(model)[1]
    ids_TK = torch.tensor(ids)
    hidden_TH = torch.randn(len(ids), model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    given = hidden_TH, ids_TK, torch.rand(ids_TK.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = module(*given)
        chosen = policy if isinstance(policy, str) else policy and policy()
        options = HERE if policy is None else {**FAST, "gpu_memory": "25%", "policy": chosen}
        with hetsched.attach(model, **options):
            model(torch.tensor([[5]]))  # which takes the weights over
            for found_TK in (ids_TK, ids_TK.int(), ids_TK.repeat_interleave(2, 1)[:, ::2], ids_TK[:0]):
                found = module(hidden_TH[: len(found_TK)], found_TK, given[2][: len(found_TK)])
                assert torch.equal(found, expected[: len(found_TK)])


def test_without_an_accelerator_bits_are_the_same_too(model: Any) -> None:
    """hardware=None is this machine's CPU: measured, not emulated, and the same bits."""
    tokens, logits = generated(model)
    with hetsched.attach(model) as handle:
        scheduled = generated(model)
        stats = handle.stats()
    assert scheduled[0] == tokens
    assert torch.equal(scheduled[1], logits)
    assert not stats["emulated"]
    assert stats["gpu_expert_bytes"] == 0
    assert stats["tokens_per_s"] > 0


def test_this_machines_measured_profile_is_found_again(model: Any) -> None:
    """What `hetsched profile` stored for this machine is used, and its path is said; without one, that is said."""
    from dataclasses import replace

    from hetsched.machine.fingerprint import fingerprint
    from hetsched.machine.hardware import nominal_cpu
    from hetsched.machine.profile import Source
    from hetsched.machine.store import store_profile

    with hetsched.attach(model) as handle:
        geometry = handle.geometry
        assert "no measured profile" in handle.hardware.notes[0]
    today = nominal_cpu().date
    mine = replace(
        nominal_cpu(), name="measured-here", source=Source.MEASURED, date=today, fingerprint=fingerprint(geometry)
    )
    path = store_profile(mine)
    try:
        with hetsched.attach(model) as handle:
            assert handle.hardware.name == "measured-here"
            assert str(path) in handle.hardware.notes[0]
    finally:
        path.unlink()


def test_detach_restores_the_model_exactly(model: Any) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    handle = hetsched.attach(model, **FAST, gpu_memory="25%")
    assert model.config._experts_implementation == "hetsched"
    generated(model)
    handle.detach()
    handle.detach()
    assert model.config._experts_implementation == "eager"
    assert hetsched.attachment_of(model) is None
    after = model.state_dict()
    for name, value in before.items():
        assert torch.equal(value, after[name])
        assert after[name].is_contiguous()
    assert all(dict(model.named_parameters())[name] is value for name, value in parameters.items())
    assert not model._forward_pre_hooks
    assert not model._forward_hooks


def test_experts_are_moved_not_doubled(model: Any) -> None:
    """While attached, a module's parameters are views of the host store."""
    with hetsched.attach(model, **FAST, gpu_memory="25%") as handle:
        experts = model.model.layers[1].mlp.experts
        row = handle.engine.store.row(hetsched.types.ExpertId(1, 5))
        assert experts.gate_up_proj[5].data_ptr() == row.data_ptr()
        assert handle.engine.store.num_bytes == handle.geometry.total_expert_bytes
        assert 0 < handle.engine.gpu_expert_bytes <= handle.geometry.total_expert_bytes // 4


def test_two_models_do_not_disturb_each_other(model: Any) -> None:
    other = tiny_moe(seed=1)
    expected, expected_other = generated(model), generated(other)
    with hetsched.attach(model, **FAST, gpu_memory="25%"), hetsched.attach(other, **FAST, gpu_memory="50%"):
        assert torch.equal(generated(other)[1], expected_other[1])
        assert torch.equal(generated(model)[1], expected[1])
    with hetsched.attach(model, **FAST, gpu_memory="50%", policy="on-demand-lru"):
        assert torch.equal(generated(model)[1], expected[1])


def test_a_model_sharing_its_config_is_left_alone(model: Any) -> None:
    """Two models built from one config object: attaching one does not schedule the other."""
    from transformers import Qwen2MoeForCausalLM

    torch.manual_seed(3)
    sibling = Qwen2MoeForCausalLM(model.config).eval()
    expected = generated(sibling)
    with hetsched.attach(model, **FAST, gpu_memory="25%"):
        assert torch.equal(generated(sibling)[1], expected[1])
        assert hetsched.attachment_of(sibling) is None


def test_from_pretrained_attaches_itself(checkpoint: Any) -> None:
    """experts_implementation="hetsched" with the configuration from the surrounding block."""
    from transformers import AutoModelForCausalLM

    eager = AutoModelForCausalLM.from_pretrained(checkpoint, experts_implementation="eager")
    with hetsched.defaults(**FAST, gpu_memory="25%", policy="on-demand-lru"):
        model = AutoModelForCausalLM.from_pretrained(checkpoint, experts_implementation="hetsched")
        scheduled = generated(model)
        handle = hetsched.attachment_of(model)
    assert handle is not None
    assert handle.stats()["policy"] == "on-demand-lru"
    assert handle.stats()["layers"] == 3 * 12
    assert torch.equal(scheduled[1], generated(eager)[1])
    handle.detach()


def test_from_pretrained_reads_the_environment(checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("HETSCHED_HARDWARE", "rtx-3060-12gb")
    monkeypatch.setenv("HETSCHED_GPU_MEMORY", "50%")
    with hetsched.defaults(time_scale=1.0):
        model = AutoModelForCausalLM.from_pretrained(checkpoint, experts_implementation="hetsched")
        generated(model, max_new_tokens=2)
    handle = hetsched.attachment_of(model)
    assert handle is not None
    assert handle.hardware.name == "rtx-3060-12gb"
    handle.detach()


@pytest.mark.parametrize("blank", ["", "  "])
def test_an_empty_environment_variable_counts_as_unset(model: Any, monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    """As shells leave it; blanks around a name do no harm."""
    monkeypatch.setenv("HETSCHED_HARDWARE", blank)
    monkeypatch.setenv("HETSCHED_GPU_MEMORY", blank)
    hetsched.integrations.transformers.register()
    model.set_experts_implementation("hetsched")
    for name in (None, "rtx-3060-12gb"):
        if name:
            monkeypatch.setenv("HETSCHED_HARDWARE", f" {name}{blank}")
        with hetsched.defaults(time_scale=1.0 if name else None):
            generated(model, max_new_tokens=2)
        handle = hetsched.attachment_of(model)
        assert handle is not None
        assert handle.hardware.name == (name or "cpu")
        handle.detach()


def test_a_forgotten_model_is_freed() -> None:
    """Dropping an attached model without detach() frees it and ends its threads."""
    model = tiny_moe()
    hetsched.attach(model, **FAST, gpu_memory="25%")
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu_memory": 100}, "least that works"),
        ({"gpu_memory": "9GiB"}, "more than rtx-4060-laptop-8gb has"),
        ({"gpu_memory": "a lot"}, "not an amount of memory"),
        ({"hardware": "rtx-4060-labtop"}, "did you mean 'rtx-4060-laptop-8gb'"),
        ({"gpu_memory": ""}, "gpu_memory is empty"),
        ({"hardware": ""}, "hardware is empty"),
        ({"policy": "hetshed"}, "did you mean 'hetsched'"),
        ({"policy": "belady"}, "needs to know the future"),
        ({"solver": "exakt"}, "did you mean 'exact'"),
        ({"solver": "sort", "policy": "on-demand-lru"}, "policy on-demand-lru asks no solver, so sort would change"),
        ({"time_scale": 0.5}, "time scale"),
        ({"hardware": None, "gpu_memory": "25%", "time_scale": None}, "has no GPU"),
        (
            {"hardware": "cpu", "gpu_memory": None},
            "time_scale 1 needs an emulated machine, and cpu is this one; drop it",
        ),
        ({**HERE, "policy": "on-demand-lru"}, "policy on-demand-lru was given, and cpu has no GPU.*drop one"),
        ({**HERE, "solver": "sort"}, "solver sort was given, and cpu has no GPU"),
        ({**HERE, "solver": "exakt"}, "did you mean 'exact'"),
        ({"forecaster": "emwa"}, "did you mean 'ewma'"),
        ({"forecaster": "ewma", "policy": "lfru"}, "policy lfru asks no forecaster, so ewma would change nothing"),
        ({"forecaster": "hetsched.forecast.oracle:Oracle"}, "needs future .*nothing gives here"),
        ({**HERE, "forecaster": "ewma"}, "forecaster ewma was given, and cpu has no GPU"),
        ({"learned": "/nowhere/at/all.npz"}, "no folder /nowhere/at"),
    ],
)
def test_bad_input_leaves_the_model_as_it_was(model: Any, options: dict[str, Any], message: str) -> None:
    before = model.state_dict()["model.layers.0.mlp.experts.down_proj"].clone()
    with pytest.raises(InputError, match=message) as caught:
        hetsched.attach(model, **{**FAST, "gpu_memory": "25%", **options})
    assert "\n" not in str(caught.value)
    assert model.config._experts_implementation == "eager"
    assert hetsched.attachment_of(model) is None
    assert torch.equal(model.state_dict()["model.layers.0.mlp.experts.down_proj"], before)


def test_what_was_learned_is_written_at_detach_and_begins_the_next(model: Any, tmp_path: Path) -> None:
    """With the forecaster that was asked for; the second run adds to the first, and neither changes a token."""
    path, asked = tmp_path / "seen.npz", {"forecaster": "ewma", "learned": tmp_path / "seen.npz"}
    plain, seen = generated(model)[0], []
    for _ in range(2):
        with hetsched.attach(model, **FAST, gpu_memory="25%", **asked) as handle:
            assert handle.stats()["forecaster"] == "ewma"
            assert generated(model)[0] == plain
            geometry = handle.geometry
        seen.append(load(path, geometry).sums["popularity_LE"].sum())
    assert seen[1] == 2 * seen[0] > 0


def test_an_accelerator_object_keeps_its_own_time_scale(model: Any) -> None:
    accelerator = EmulatedAccelerator(machine("rtx-4060-laptop-8gb"), time_scale=2.0)
    with pytest.raises(InputError, match="time_scale 1 was given beside an accelerator object; give it to that one"):
        hetsched.attach(model, **FAST, gpu_memory="25%", accelerator=accelerator)
    accelerator.close()


def test_without_a_gpu_the_strategies_that_say_so_are_no_error(model: Any) -> None:
    with hetsched.attach(model, hardware="cpu", policy="cpu-only", solver="all-cpu") as handle:
        assert handle.stats()["policy"] == "cpu-only"


def test_unknown_names_list_what_is_installed(model: Any) -> None:
    with pytest.raises(UnknownNameError, match=f"{POLICIES[0]}.*hetsched.*static-frequency"):
        hetsched.attach(model, **FAST, gpu_memory="25%", policy="zzz")


def test_attaching_twice_is_an_error(model: Any) -> None:
    with hetsched.attach(model, **FAST, gpu_memory="25%"), pytest.raises(InputError, match="attached already"):
        hetsched.attach(model, **FAST, gpu_memory="25%")
    assert model.config._experts_implementation == "eager"


def test_a_dense_model_is_refused() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=8)
    with pytest.raises(InputError, match="no routed experts"):
        hetsched.attach(LlamaForCausalLM(config))


def test_training_is_refused(model: Any) -> None:
    with hetsched.attach(model, **FAST, gpu_memory="25%"):
        model.train()
        with pytest.raises(InputError, match="inference only"):
            model(torch.arange(4)[None])
        model.eval()


def test_an_error_in_a_lane_reaches_the_caller_and_generation_can_go_on(model: Any) -> None:
    """The cause is kept, nothing stays half copied, and the next call gives the right tokens."""
    expected = generated(model)
    experts = model.model.layers[1].mlp.experts
    with hetsched.attach(model, **FAST, gpu_memory="25%", policy="on-demand-lru") as handle:
        experts._apply_gate = _fail
        with pytest.raises(LaneError) as caught:
            generated(model)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        handle.scheduler.residency.check()
        assert not handle.scheduler.residency.copying()
        del experts._apply_gate
        assert torch.equal(generated(model)[1], expected[1])


def test_interrupting_generation_detaches(model: Any) -> None:
    """Ctrl-C inside the `with` block: threads end, the model is as before."""
    from transformers import StoppingCriteria

    class Interrupt(StoppingCriteria):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), hetsched.attach(model, **FAST, gpu_memory="25%"):
        generated(model, stopping_criteria=[Interrupt()])
    assert model.config._experts_implementation == "eager"


def test_cpu_kernels_by_measurement_stay_within_rounding() -> None:
    """On this machine bf16 experts run on the fastest lossless kernel; the statistics say which and why."""
    model = tiny_moe().to(torch.bfloat16)
    experts = model.model.layers[0].mlp.experts
    hidden, weights = torch.randn(9, 32).to(torch.bfloat16), torch.rand(9, 4).to(torch.bfloat16)
    ids = torch.stack([torch.randperm(8)[:4] for _ in range(9)])
    with torch.no_grad():
        reference = copy.deepcopy(experts).float()(hidden.float(), ids, weights.float())
        with hetsched.attach(model, cpu_kernel="auto") as handle:
            scheduled = experts(hidden, ids, weights).float()
            stats = handle.stats()
    assert stats["cpu_kernel"] != "eager"
    assert stats["cpu_kernel_reason"]
    assert (scheduled - reference).abs().max() < 0.02 * reference.abs().max()


def test_unknown_cpu_kernels_are_listed(model: Any) -> None:
    with pytest.raises(UnknownNameError, match="torch-fp32"):
        hetsched.attach(model, cpu_kernel="torch-fp23")


def test_stand_in_takes_another_models_seconds(model: Any) -> None:
    """Layers take gpt-oss-20b's time on the machine; the tokens stay this model's."""
    tokens, _ = generated(model, max_new_tokens=3)
    with hetsched.attach(model, **FAST, gpu_memory="25%", policy="cpu-only", stand_in_for="gpt-oss-20b") as handle:
        assert generated(model, max_new_tokens=3)[0] == tokens
        cost = hetsched.CostModel(handle.hardware, hetsched.machine.gallery.model("gpt-oss-20b"))
        decode_makespan_s = 4 * float(cost.cpu_s(1)) + cost.cpu_start_s(1)
        last = handle.scheduler.stats
        assert last.makespan_s == pytest.approx(last.predicted_s)
        assert last.makespan_s > 2 * 3 * decode_makespan_s


def _fail(*_: Any) -> Any:
    raise ZeroDivisionError("planted")
