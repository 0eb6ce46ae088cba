"""attach() on a machine without an accelerator: nothing decides, everything is counted, bits stay."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import hetsched
from hetsched.engine.cpu_only import CpuOnlyEngine
from hetsched.engine.engine import Engine
from hetsched.errors import InputError, UnknownNameError
from tests.conftest import tiny_moe

PROMPT = torch.arange(3, 15)[None]


def generated(model: Any, prompt: torch.Tensor = PROMPT) -> tuple[list[list[int]], torch.Tensor]:
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return out.sequences.tolist(), torch.stack(out.logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_eager_kernel_keeps_every_bit(dtype: torch.dtype) -> None:
    """cpu_kernel="eager": tokens and logits of eager transformers, in every precision."""
    model = tiny_moe().to(dtype)
    tokens, logits = generated(model)
    with hetsched.attach(model, cpu_kernel="eager") as handle:
        assert isinstance(handle.engine, CpuOnlyEngine)
        found = generated(model)
    assert found[0] == tokens
    assert torch.equal(found[1], logits)


@pytest.mark.parametrize("kernel", ["eager", "upcast"])
def test_autocast_is_eagers(kernel: str) -> None:
    """Under autocast the same bits as eager under autocast, whichever kernel was asked for."""
    model = tiny_moe().bfloat16() if kernel == "upcast" else tiny_moe()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        eager = model(PROMPT).logits
        with hetsched.attach(model, cpu_kernel=kernel):
            assert torch.equal(model(PROMPT).logits, eager)


def test_inference_mode_and_outside_of_it_share_what_is_kept(model: Any) -> None:
    """Memory kept from a forward pass in inference mode serves one outside, and the other way round."""
    prompt = torch.arange(3, 123).remainder(100)[None].repeat(8, 1)
    with torch.no_grad():
        eager = model(prompt).logits
    with hetsched.attach(model):
        for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
            with mode():
                assert torch.equal(model(prompt).logits, eager)


def test_the_measured_kernel_stays_near_eager() -> None:
    """cpu_kernel="auto" on bf16: another rounding, the same model."""
    model = tiny_moe().bfloat16()
    with torch.no_grad():
        eager = model(PROMPT).logits.float()
        with hetsched.attach(model, cpu_kernel="auto"):
            found = model(PROMPT).logits.float()
    assert (found - eager).norm() <= 0.03 * eager.norm()


def test_what_ran_is_counted(model: Any) -> None:
    """Steps, tokens, active experts and tokens of each expert, as the calls of the expert modules have them."""
    with hetsched.attach(model) as handle:
        with IdsOf(model) as seen:
            generated(model)
        stats, tokens_LE = handle.stats(), handle.scheduler.tokens_LE
    assert (stats["steps"], stats["layers"]) == (6, 18)
    assert (stats["tokens"], stats["decode_tokens"]) == (12 + 5, 5)
    assert stats["active"] == sum(len(ids.unique()) for ids in seen)
    expected = [[int(sum(ids.eq(e).sum() for ids in seen[layer::3])) for e in range(8)] for layer in range(3)]
    assert tokens_LE.tolist() == expected
    assert (stats["hits"], stats["bytes_moved"], stats["gpu_expert_bytes"]) == (0, 0, 0)
    assert (stats["policy"], stats["solver"]) == ("cpu-only", "all-cpu")
    assert min(stats["tokens_per_s"], stats["dense_s"], stats["cpu_s"]) > 0
    assert stats["cpu_s"] == stats["makespan_s"]


def test_names_are_checked_though_nothing_is_decided(model: Any) -> None:
    """A policy or solver that nobody knows is an error here too, and the model is as it was."""
    with pytest.raises(UnknownNameError, match="policy"):
        hetsched.attach(model, policy="hetshed")
    with pytest.raises(UnknownNameError, match="solver"):
        hetsched.attach(model, solver="exakt")
    generated(model)


def test_an_accelerator_named_cpu_takes_the_whole_engine(model: Any) -> None:
    """The plug-in that the conformance suite tests is still reachable, with the same bits."""
    with hetsched.attach(model) as handle:
        logits = generated(model)[1]
    with hetsched.attach(model, accelerator="cpu") as handle:
        assert isinstance(handle.engine, Engine)
        assert torch.equal(generated(model)[1], logits)


def test_two_threads_take_turns(model: Any) -> None:
    """Each gets the tokens that it gets alone."""
    prompts = [PROMPT, PROMPT.flip(1)]
    alone = [generated(model, prompt)[0] for prompt in prompts]
    found: dict[int, Any] = {}
    with hetsched.attach(model):

        def work(i: int) -> None:
            found[i] = generated(model, prompts[i])[0]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found[0], found[1]] == alone


def test_a_failing_layer_leaves_nothing_behind(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error reaches the caller, and the next call has every bit."""
    logits = generated(model)[1]
    with hetsched.attach(model) as handle:
        layer = handle.engine._layers[1]

        def fail(*args: Any) -> Any:
            raise RuntimeError("no memory left")

        monkeypatch.setattr(layer, "forward", fail)
        with pytest.raises(RuntimeError, match="no memory left"):
            generated(model)
        monkeypatch.undo()
        assert torch.equal(generated(model)[1], logits)


def test_after_close_nothing_runs(model: Any) -> None:
    """A forward pass that outlives detach() is told so."""
    handle = hetsched.attach(model)
    engine = handle.engine
    handle.detach()
    with pytest.raises(InputError, match="attach it again"):
        engine.begin_step(None)


class IdsOf:
    """The ids [T, K] that every expert module was called with, in order."""

    def __init__(self, model: Any) -> None:
        self.seen: list[torch.Tensor] = []
        self._modules = [m for m in model.modules() if hasattr(m, "has_gate")]

    def __enter__(self) -> list[torch.Tensor]:
        self._hooks = [m.register_forward_pre_hook(lambda _, args: self.seen.append(args[1])) for m in self._modules]
        return self.seen

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
