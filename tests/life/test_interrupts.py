"""Ctrl-C at any line of attaching: the model is as it was, no thread is left, and attaching again works."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hetsched
from hetsched.accelerators.streams.device import StreamAccelerator
from hetsched.engine.interrupts import uninterrupted
from hetsched.loading.load import load_model
from tests.accelerators.clocked_queues import ClockedQueues
from tests.architectures.test_models import asking
from tests.architectures.test_shapes import diffusion_gemma
from tests.at_line import AtLine
from tests.conftest import tiny_moe
from tests.generation.generating import ALONE, EMULATED, HERE, generated, same

from .test_freed import ended, own_threads

PACKAGE = str(Path(hetsched.__file__).parent)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks")
POINTS = int(os.environ.get("HETSCHED_TEST_INTERRUPTS", "24"))  # of the lines of one attach; 100000 takes them all


def at_line(at: int = 0) -> AtLine:
    """Ctrl-C at the n-th line of the package's files."""
    return AtLine(at, lambda frame: frame.f_code.co_filename.startswith(PACKAGE))


class Before:
    """A model as it was: its parameters, their bits, its configs and hooks."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.parameters = dict(model.named_parameters())
        self.bits = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.configs = [module.config._experts_implementation_internal for module in self._with_config()]
        self.known = [(module, set(vars(module))) for module in model.modules()]
        self.hooks = self._hooks()

    def differs(self) -> list[str]:
        """What is not as it was."""
        now = dict(self.model.named_parameters())
        found = [name for name, parameter in self.parameters.items() if now.get(name) is not parameter]
        found += [f"bits of {name}" for name, bits in self.bits.items() if not torch.equal(now[name], bits)]
        found += [f"strides of {name}" for name, parameter in now.items() if not parameter.is_contiguous()]
        found += [f"memory of {name}" for name, parameter in now.items() if _shares_memory(parameter)]
        configs = [module.config._experts_implementation_internal for module in self._with_config()]
        found += ["configs"] if configs != self.configs else []
        found += [f"{type(module).__name__}: {set(vars(module)) ^ names}" for module, names in self.known
                  if set(vars(module)) != names]  # fmt: skip
        return found + (["hooks"] if self._hooks() != self.hooks else [])

    def _with_config(self) -> list[Any]:
        return [module for module in self.model.modules() if hasattr(module, "config")]

    def _hooks(self) -> list[dict[int, Any]]:
        return [dict(vars(module)[name]) for module in self.model.modules() for name in HOOKS]


def _shares_memory(parameter: torch.Tensor) -> bool:
    return parameter.untyped_storage().nbytes() != parameter.nbytes


def try_every(at: range, before: Before, attach: Callable[[], Any]) -> int:
    """Interrupt attach() at these lines; returns how many interrupts came through."""
    interrupted = 0
    for line in at:
        tracer = at_line(line)
        try:
            with tracer:
                handle = attach()
        except KeyboardInterrupt:
            interrupted += 1
        else:  # the last lines belong to nobody's undoing: the handle was on its way
            handle.detach()
        threads = own_threads()
        gc.collect()
        assert before.differs() == [], tracer.where
        assert torch.is_grad_enabled(), tracer.where
        assert ended(threads), tracer.where
    return interrupted


def lines_of(attach: Callable[[], Any]) -> int:
    attach().detach()  # what the first time makes once for all
    with at_line() as all_lines:
        handle = attach()
    handle.detach()
    return all_lines.lines


@pytest.mark.parametrize(
    "way",
    [EMULATED, EMULATED | {"gpu_precision": "int8"}, HERE, HERE | {"cpu_kernel": "fused-bf16"}],
    ids=["emulated", "lossy", "cpu", "fused"],
)
def test_attach(way: dict[str, Any]) -> None:
    model = tiny_moe(layers=2)
    if "fused" in way.get("cpu_kernel", ""):
        model = model.to(torch.bfloat16)
    eager, before = generated(model, ALONE, 2), Before(model)

    def attach() -> Any:
        return hetsched.attach(model, **way)

    lines = lines_of(attach)
    assert try_every(range(1, lines, max(1, lines // POINTS)), before, attach) >= min(POINTS, lines - 9)
    assert same(generated(model, ALONE, 2), eager)
    if "fused" in way.get("cpu_kernel", "") or "gpu_precision" in way:
        return
    with attach():
        assert same(generated(model, ALONE, 2), eager)


def test_attach_with_tied_experts_and_a_device() -> None:
    """Two stacks that share their parameters, on streams, with pinned rows."""
    model = diffusion_gemma()
    before = Before(model)

    def attach() -> Any:
        device = StreamAccelerator(ClockedQueues(), 1 << 20, 1 << 10)
        return hetsched.attach(model, **{**EMULATED, "time_scale": None}, accelerator=device)

    lines = lines_of(attach)
    assert try_every(range(1, lines, max(1, lines // POINTS)), before, attach) >= min(POINTS, lines - 9)


def test_attaching_itself() -> None:
    """In the middle of the model's first forward pass."""
    model = asking(tiny_moe(layers=2))
    before = Before(model)

    def attach() -> Any:
        with hetsched.defaults(**EMULATED), torch.no_grad():
            model(ALONE)
        return hetsched.attachment_of(model)

    lines, interrupted = lines_of(attach), 0
    for line in range(1, lines, max(1, lines // POINTS)):
        with contextlib.suppress(KeyboardInterrupt), at_line(line) as tracer:  # threads make the last lines vary
            attach()
        interrupted += bool(tracer.where)
        torch.set_grad_enabled(True)
        threads, handle = own_threads(), hetsched.attachment_of(model)
        if handle is not None:  # attached, and interrupted while it ran
            handle.detach()
        del handle
        gc.collect()
        assert before.differs() == [], tracer.where
        assert ended(threads), tracer.where
    assert interrupted >= POINTS // 2


def test_attach_after_load(checkpoint: Path) -> None:
    """The rows that hetsched.load has filled become ordinary parameters, with the same bits."""
    hetsched.attach(load_model(checkpoint, progress=False), **EMULATED).detach()
    model = load_model(checkpoint, progress=False)
    bits = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with at_line() as all_lines:
        handle = hetsched.attach(model, **EMULATED)
    handle.detach()
    for share in (0.3, 0.6, 0.9):
        model = load_model(checkpoint, progress=False)
        with at_line(int(all_lines.lines * share)), pytest.raises(KeyboardInterrupt):
            hetsched.attach(model, **EMULATED)
        threads = own_threads()
        gc.collect()
        assert ended(threads)
        assert all(torch.equal(parameter, bits[name]) for name, parameter in model.named_parameters())
        assert hetsched.attachment_of(model) is None


def test_detach_interrupted_is_finished_by_the_next() -> None:
    """Wherever the first one stopped."""
    model = tiny_moe(layers=2)
    before = Before(model)
    with at_line() as all_lines:
        hetsched.attach(model, **EMULATED).detach()
    with at_line() as attaching:
        handle = hetsched.attach(model, **EMULATED)
    handle.detach()
    lines = all_lines.lines - attaching.lines
    for line in range(1, lines, max(1, lines // POINTS)):
        handle = hetsched.attach(model, **EMULATED)
        with at_line(line) as tracer, pytest.raises(KeyboardInterrupt):
            handle.detach()
        torch.set_grad_enabled(True)
        handle.detach()
        assert before.differs() == [], tracer.where


def test_a_second_interrupt_waits_until_the_first_is_dealt_with() -> None:
    """SIGINT inside the block is delivered at its end, to whoever handled it before; in another thread nothing is."""
    seen: list[str] = []

    def twice() -> None:
        with uninterrupted():
            with uninterrupted():
                signal.raise_signal(signal.SIGINT)
                seen.append("inner")
            seen.append("outer")
        seen.append("never")

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert seen == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def elsewhere() -> None:
        with uninterrupted():
            seen.append("elsewhere")

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen[-1] == "elsewhere"


def test_a_request_to_end_waits_too() -> None:
    """Where Python handles SIGTERM; both are handled as before once the block has ended, however that was."""
    seen: list[str] = []

    def ends(number: int, _: object) -> None:
        raise SystemExit(number)

    def both() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            seen.append("whole")

    before = signal.signal(signal.SIGTERM, ends)
    try:
        with pytest.raises(SystemExit) as raised:
            both()
        assert (raised.value.code, seen) == (signal.SIGTERM, ["whole"])
        assert isinstance(raised.value.__context__, KeyboardInterrupt)
        assert signal.getsignal(signal.SIGTERM) is ends
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
