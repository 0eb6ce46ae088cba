"""Which machine a run is on: with a GPU here, that GPU and its own figures; without one, the CPU."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest

import hetsched
from hetsched.accelerators.cpu import CpuAccelerator
from hetsched.accelerators.emulated.device import EmulatedAccelerator
from hetsched.integrations.budget import accelerator_for
from hetsched.machine import gallery, hardware
from hetsched.machine.fingerprint import fingerprint
from hetsched.machine.profile import Source
from hetsched.machine.store import store_profile

SHAPE = gallery.model("qwen3-30b-a3b")
GPU_BYTES = 24 << 30


@pytest.fixture
def gpu_here(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes torch seem to find a GPU of that name."""

    def named(name: str) -> None:
        for module in ("hetsched.machine.hardware", "hetsched.machine.fingerprint"):
            monkeypatch.setattr(importlib.import_module(module), "gpu_name_and_driver", lambda: (name, "570.1"))
        monkeypatch.setattr(hardware, "gpu_memory_bytes", lambda: GPU_BYTES)

    return named


@pytest.mark.parametrize(
    ("gpu", "like"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "rtx-4060-laptop-8gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("Tesla T4", "t4"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("NVIDIA GeForce GTX 1080", hardware.UNKNOWN_GPU),
    ],
)
def test_an_unmeasured_gpu_takes_its_models_datasheet(gpu_here: Any, gpu: str, like: str) -> None:
    gpu_here(gpu)
    found = hetsched.resolve_hardware(None, SHAPE)
    assert found.gpu is not None
    assert (found.name, found.gpu.name, found.gpu.capacity_bytes) == (like, gpu, GPU_BYTES)
    assert "hetsched profile" in found.notes[0]
    assert hetsched.resolve_hardware("cpu", SHAPE).gpu is None


def test_a_measured_profile_of_this_gpu_is_preferred_and_of_another_is_not(gpu_here: Any) -> None:
    gpu_here("NVIDIA GeForce RTX 4090")
    print_ = {**fingerprint(SHAPE)}
    mine = replace(gallery.machine("rtx-4090"), name="mine", source=Source.MEASURED, fingerprint=print_, datasheet=None)
    path = store_profile(mine)
    try:
        found = hetsched.resolve_hardware("auto", SHAPE)
        assert found.name == "mine"
        assert str(path) in found.notes[0]
        gpu_here("NVIDIA GeForce RTX 3090")
        assert hetsched.resolve_hardware("auto", SHAPE).name == "rtx-3090"
    finally:
        path.unlink()


def test_the_accelerator_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's GPU is really used, any other is emulated; without a GPU there is the CPU."""
    machine = gallery.machine("rtx-4090")
    emulated = accelerator_for(None, machine, 20.0, here=False)
    assert isinstance(emulated, EmulatedAccelerator)
    emulated.close()
    assert isinstance(accelerator_for(None, hardware.nominal_cpu(), 20.0, here=True), CpuAccelerator)

    class Recorded:
        emulated = False

        def __init__(self, profile: Any) -> None:
            self.profile = profile

    budget = importlib.import_module("hetsched.integrations.budget")
    asked = []
    monkeypatch.setattr(budget, "plugin", lambda group, name: asked.append(name) or Recorded)
    made: Any = accelerator_for(None, machine, 20.0, here=True)
    assert (asked, made.profile) == (["cuda"], machine)
