"""Attached and detached two hundred times: the same tokens every time, and no thread, tensor or object more."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from typing import Any

import psutil
import pytest
import torch

import hetsched
from hetsched.accelerators.emulated.device import EmulatedAccelerator
from tests.conftest import tiny_moe
from tests.generation.generating import ALONE, EMULATED, HERE, generated, same

ROUNDS, SETTLED = 200, 20
LEAKED_BYTES = 4 << 20  # an allocator's own ups and downs


def alive() -> Counter[str]:
    """Objects by type, of hetsched and torch; the garbage is collected before."""
    gc.collect()
    kinds = (type(thing) for thing in gc.get_objects())
    return Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds if _is_ours(kind.__module__))


def _is_ours(module: Any) -> bool:
    return str(module).partition(".")[0] in ("hetsched", "torch")


@pytest.mark.parametrize("way", [EMULATED, HERE], ids=["emulated", "cpu"])
def test_nothing_is_left_of_two_hundred_rounds(way: dict[str, Any]) -> None:
    model = tiny_moe()
    expected = generated(model, ALONE, 2)
    threads = objects = resident_bytes = None
    held_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    assert held_bytes * (ROUNDS - SETTLED) > 4 * LEAKED_BYTES  # so that what is leaked would be seen
    for i in range(ROUNDS):
        with hetsched.attach(model, **way):
            assert same(generated(model, ALONE, 2), expected)
        if i == SETTLED:
            threads, objects = {thread.name for thread in threading.enumerate()}, alive()
            resident_bytes = psutil.Process().memory_info().rss
    assert {thread.name for thread in threading.enumerate()} == threads
    assert alive() - objects == Counter()
    assert psutil.Process().memory_info().rss - resident_bytes < LEAKED_BYTES
    assert same(generated(model, ALONE, 2), expected)


@pytest.mark.parametrize("way", [EMULATED, HERE], ids=["emulated", "cpu"])
def test_four_threads_and_an_exception_in_each_round(way: dict[str, Any]) -> None:
    """Threads take turns by layers; one of them raises in the middle of its text every time."""
    model = tiny_moe()
    expected = generated(model, ALONE, 3)

    def fails(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > ALONE.shape[1]:
            raise ArithmeticError("a logits processor failed")
        return logits

    outputs: list[Any] = []

    def ask(processor: Any) -> None:
        try:
            outputs.append(generated(model, ALONE, 3, **({"logits_processor": [fails]} if processor else {})))
        except ArithmeticError as error:
            outputs.append(error)

    for _ in range(5):
        outputs.clear()
        with hetsched.attach(model, **way) as handle:
            threads = [threading.Thread(target=ask, args=(i == 2,)) for i in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            handle.engine.check()
        failed = [out for out in outputs if isinstance(out, ArithmeticError)]
        assert len(outputs) == 4
        assert len(failed) == 1
        assert all(same(out, expected) for out in outputs if not isinstance(out, ArithmeticError))


def test_it_trains_after_detach() -> None:
    """Every expert that was routed to gets a gradient and moves, as in a model that never was attached."""
    model, never = tiny_moe(), tiny_moe()
    with hetsched.attach(model, **EMULATED):
        generated(model, ALONE, 2)
    losses = []
    for trained in (model, never):
        trained.train()
        optimiser = torch.optim.SGD(trained.parameters(), lr=0.1)
        for _ in range(3):
            optimiser.zero_grad()
            loss = trained(ALONE, labels=ALONE).loss
            loss.backward()
            optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[0] == losses[1]
    pairs = zip(model.named_parameters(), never.named_parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for (_, ours), (_, theirs) in pairs)


def test_no_emulated_arena_outlives_its_attachment() -> None:
    """Those of others may: a command that was asked to end, in this process, is kept with all it had (signals.py)."""
    model, before = tiny_moe(), arenas()
    for _ in range(3):
        with hetsched.attach(model, **EMULATED):
            generated(model, ALONE, 2)
    assert not [arena for arena in arenas() if all(arena is not other for other in before)]


def arenas() -> list[EmulatedAccelerator]:
    """All that live."""
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing) is EmulatedAccelerator]
