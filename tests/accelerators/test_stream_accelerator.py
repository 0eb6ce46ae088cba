"""The host's side of the CUDA accelerator, on a device whose copies take time by the clock: order, events, ends."""

from __future__ import annotations

import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hetsched
from hetsched.accelerators.base import Accelerator, Cancelled, LaneError
from hetsched.accelerators.cuda.activation import reference
from hetsched.accelerators.cuda.decode import CudaDecode
from hetsched.accelerators.cuda.device import CudaAccelerator
from hetsched.accelerators.cuda.kernels import NotCompiled
from hetsched.accelerators.cuda.loads import LOADS
from hetsched.accelerators.streams.device import StreamAccelerator
from hetsched.bench import device_check
from hetsched.bench.drawn_experts import DrawnExperts, summed
from hetsched.errors import InputError
from hetsched.integrations.expert_modules import expert_modules
from hetsched.packed import PackedStack
from hetsched.testing.accelerators import LAWS, Make, lanes_overlap
from hetsched.types import Lane
from tests.conftest import tiny_moe
from tests.packed.models import gpt_oss, logits, pack, qwen3_moe

from .clocked_queues import ClockedQueues

CHECK = Path(__file__).parents[2] / "examples" / "gpu_check.py"
CHUNK = 1 << 10
RATE = 1e5  # bytes/s: a chunk takes 10 ms


def made(capacity_bytes: int = 1 << 20, bytes_per_s: float = 1e8, pinnable: bool = True) -> StreamAccelerator:
    return StreamAccelerator(ClockedQueues(bytes_per_s, pinnable), capacity_bytes, CHUNK)


@pytest.fixture(params=[True, False], ids=["pinned", "staged"])
def device(request: pytest.FixtureRequest) -> Iterator[StreamAccelerator]:
    accelerator = made(bytes_per_s=RATE, pinnable=request.param)
    accelerator.decided(0.0)
    yield accelerator
    accelerator.close()


# Kernels of lanes_overlap take no time on a device that is not emulated; tests/gpu has overlap with real ones.
@pytest.mark.parametrize("law", [law for law in LAWS if law is not lanes_overlap], ids=lambda law: law.__name__)
@pytest.mark.parametrize("pinnable", [True, False])
def test_the_laws(law: Callable[[Make], None], pinnable: bool) -> None:
    law(lambda capacity_bytes: made(capacity_bytes, pinnable=pinnable))


def test_it_is_an_accelerator(device: StreamAccelerator) -> None:
    assert isinstance(device, Accelerator)
    assert not device.emulated


def test_an_urgent_copy_passes_all_but_the_chunks_under_way(device: StreamAccelerator) -> None:
    """It ends before the copy of twenty chunks that was there first, which still arrives whole."""
    target, ones = device.allocate(21 * CHUNK), torch.ones(21 * CHUNK, dtype=torch.uint8)
    target.zero_()
    with device._queues.standing():
        slow = device.copy_in(ones[CHUNK:], target[CHUNK:], seconds=0.1, urgent=False)
        fast = device.copy_in(ones[:CHUNK], target[:CHUNK], seconds=0.01, urgent=True)
    device.end_layer([fast, slow])
    assert fast.last.at_s < slow.last.at_s
    assert sum(end.at_s < fast.last.at_s for _, end in slow.marks) < 10
    assert target.min() == 1


def test_a_promoted_copy_goes_before_older_ones(device: StreamAccelerator) -> None:
    target, ones = device.allocate(12 * CHUNK), torch.ones(4 * CHUNK, dtype=torch.uint8)
    with device._queues.standing():
        first, second, third = (
            device.copy_in(ones, target[i * 4 * CHUNK : (i + 1) * 4 * CHUNK], seconds=0.04, urgent=False)
            for i in range(3)
        )
        device.promote(third)
    device.end_layer([first, second, third])
    assert third.last.at_s < first.last.at_s < second.last.at_s


def test_copy_state_counts_what_is_left(device: StreamAccelerator) -> None:
    """Unfinished copies by their ends; an urgent one would start after the chunks under way; none at the end."""
    target, ones = device.allocate(20 * CHUNK), torch.ones(10 * CHUNK, dtype=torch.uint8)
    with device._queues.standing():
        first = device.copy_in(ones, target[: 10 * CHUNK], seconds=0.1, urgent=False)
        second = device.copy_in(ones, target[10 * CHUNK :], seconds=0.1, urgent=False)
        urgent_s, ((earlier, first_s), (later, second_s)) = device.copy_state()
    assert (earlier, later) == (first, second)
    assert urgent_s <= 0.02
    assert 0.0 < first_s <= 0.1
    assert second_s == pytest.approx(first_s + 0.1)
    second.result()
    assert device.copy_state() == (0.0, [])
    assert first.busy_s >= 0.0999  # ten chunks; more where the thread that sends them came late


def test_work_is_launched_in_order_and_waits_only_for_its_own_copy(device: StreamAccelerator) -> None:
    """Work without a copy is launched at once; work behind work that waits keeps its place."""
    target = device.allocate(4 * CHUNK)
    target.zero_()
    seen: list[int] = []
    device.launch(Lane.GPU, lambda: seen.append(0), 0.0)
    assert seen == [0]
    with device._queues.standing():
        copy = device.copy_in(torch.ones(4 * CHUNK, dtype=torch.uint8), target, seconds=0.04, urgent=True)
        waiting = device.launch(Lane.GPU, lambda: (seen.append(1), int(target.sum()))[1], 0.0, [copy])
        behind = device.launch(Lane.GPU, lambda: seen.append(2), 0.0)
        beside = device.launch(Lane.CPU, lambda: seen.append(3), 0.0)
        beside.result()
    device.end_layer([waiting, behind])
    assert waiting.result() == 4 * CHUNK
    assert seen == [0, 3, 1, 2]
    assert waiting.stall_s >= 0.0399  # four chunks, from the end of the first work
    assert behind.stall_s == 0.0


def test_the_caller_is_the_cpu_lane(device: StreamAccelerator) -> None:
    """Its work is done in the thread that waits, before the device is waited for, once; what is cancelled, never."""
    target, ones, seen = device.allocate(4 * CHUNK), torch.ones(4 * CHUNK, dtype=torch.uint8), list[Any]()
    with device._queues.standing():
        copy = device.copy_in(ones, target, seconds=0.04, urgent=True)
        work = device.launch(Lane.CPU, lambda: seen.append((threading.current_thread(), copy.done)), 0.0)
        assert not seen
        device.end_layer([work])
    assert seen == [(threading.current_thread(), False)]
    device.end_layer([copy, work])
    assert len(seen) == 1
    dropped = device.launch(Lane.CPU, lambda: seen.append(1), 0.0)
    device.cancel()
    with pytest.raises(Cancelled):
        device.end_layer([dropped])
    assert len(seen) == 1


def test_a_failed_copy_fails_what_waits_for_it_and_nothing_else(device: StreamAccelerator) -> None:
    target, one = device.allocate(CHUNK), torch.ones(CHUNK, dtype=torch.uint8)
    device._queues.failing = True
    copy = device.copy_in(one, target, seconds=0.01, urgent=True)
    work = device.launch(Lane.GPU, lambda: 1, 0.0, [copy])
    with pytest.raises(LaneError, match="on fire"):
        device.end_layer([work])
    assert copy.failed
    assert work.failed
    device._queues.failing = False
    device.cancel()
    again = device.copy_in(one, target, seconds=0.01, urgent=True)
    assert device.end_layer([device.launch(Lane.GPU, lambda: int(target.sum()), 0.0, [again])]) > 0
    assert device.copy_state() == (0.0, [])


def test_cancelling_drops_what_waits_and_ends_what_runs(device: StreamAccelerator) -> None:
    target, ones = device.allocate(900 * CHUNK), torch.ones(900 * CHUNK, dtype=torch.uint8)
    copies = [device.copy_in(ones, target, seconds=9.0, urgent=False) for _ in range(2)]
    work = device.launch(Lane.GPU, lambda: 1, 0.0, [copies[1]])
    device.cancel()
    assert len(device._queues.sent) < 900  # of 1800 chunks, nine seconds of them
    for event in (*copies, work):
        with pytest.raises(Cancelled):
            event.result()
    assert device.copy_state() == (0.0, [])
    assert device.launch(Lane.GPU, lambda: 7, 0.0).result() == 7


def test_what_cannot_be_pinned_is_said_once() -> None:
    accelerator = StreamAccelerator(ClockedQueues(), 1 << 10, CHUNK, pinnable_bytes=100)
    assert accelerator.pin(torch.zeros(60, dtype=torch.uint8))
    assert not accelerator.pin(torch.zeros(60, dtype=torch.uint8))
    assert not accelerator.pin(torch.zeros(60, dtype=torch.uint8))
    assert len(accelerator.notes) == 1
    assert "100 bytes may be pinned" in accelerator.notes[0]
    accelerator.close()


def test_router_ids_come_beside_a_long_copy(device: StreamAccelerator) -> None:
    """What is brought to the host does not wait for the copies to the device."""
    target = device.allocate(20 * CHUNK)
    ids = torch.arange(8)
    with device._queues.standing():
        slow = device.copy_in(torch.ones(20 * CHUNK, dtype=torch.uint8), target, seconds=0.2, urgent=True)
        brought = device.bring(ids)
    assert torch.equal(brought.result(), ids)
    slow.result()
    assert brought._end.at_s < slow.last.at_s


def test_the_gpus_checks_measure_what_they_say() -> None:
    """On a device whose link is known: 1 MB at 10 MB/s, an urgent chunk behind two of a hundred."""

    def make(capacity_bytes: int) -> StreamAccelerator:
        return StreamAccelerator(ClockedQueues(1e7), capacity_bytes, 10_000)

    found = device_check.overlap(make, 1_000_000)
    assert found["copy_s"] >= 0.0999
    assert found["hold_s"] >= 0.0999
    assert found["makespan_s"] >= found["hold_s"]
    assert 0 <= found["hidden_share"] <= 1
    waited = device_check.urgency(make, 1_000_000)
    assert waited["waited_s"] >= 0.0019
    assert set(device_check.laws(lambda capacity_bytes: made(capacity_bytes)).values()) == {"kept"}


def test_a_model_runs_on_it_with_eagers_tokens() -> None:
    """The whole engine over chunked, asynchronous copies: tokens of plain eager, pinned and staged."""
    model = tiny_moe()
    ids = torch.randint(3, 120, (1, 12), generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(ids, **options)
    for pinnable in (True, False):
        accelerator = made(1 << 24, 2e7, pinnable)
        machine = {"hardware": "rtx-4060-laptop-8gb", "stand_in_for": "gpt-oss-20b"}
        with hetsched.attach(model, **machine, gpu_memory="30%", accelerator=accelerator) as attached:
            assert torch.equal(model.generate(ids, **options), expected)
            stats = attached.stats()
        assert stats["prefetches"] + stats["demanded_fetches"] > 0
        assert stats["hits"] > 0


class KernelsByTorch:
    """DecodeKernels' place taken by torch: what it was asked, and the same sums."""

    def __init__(self) -> None:
        self.pairs: list[int] = []
        self.summed: list[int] = []  # pairs, too
        self.unpacks = 0

    def parts(
        self,
        reading: Any,
        experts: Any,
        activation: Any,
        hidden_TH: torch.Tensor,
        row_P: torch.Tensor,
        weight_P: torch.Tensor,
    ) -> torch.Tensor:
        self.pairs.append(len(row_P))
        owner = [weights for weights, pairs in zip(*experts, strict=True) for _ in range(pairs)]
        unpacked = {id(weights): self.unpacked(reading, weights, hidden_TH) for weights in experts.weights}
        parts = []
        for row, weights in zip(row_P, owner, strict=True):
            up_FH, down_HF = unpacked[id(weights)]
            projected = hidden_TH[row] @ up_FH.T + weights.get("gate_up_proj_bias", 0.0)
            parts.append(reference(activation, projected) @ down_HF.T + weights.get("down_proj_bias", 0.0))
        return torch.stack(parts) * weight_P[:, None]

    def scatter(self, part_PH: torch.Tensor, row_P: torch.Tensor, num_tokens: int) -> torch.Tensor:
        self.summed.append(len(row_P))
        return part_PH.new_zeros(num_tokens, part_PH.shape[1]).index_add_(0, row_P, part_PH)

    def unpacked(self, reading: Any, weights: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.unpacks += 1
        up_FH, down_HF = weights["gate_up_proj"], weights["down_proj"]
        return (up_FH, down_HF) if len(down_HF) == reading.down.rows else (up_FH.T, down_HF.T)


def on_queues(kernels: KernelsByTorch, plain: bool = True) -> StreamAccelerator:
    decode = CudaDecode(kernels, plain)
    return StreamAccelerator(ClockedQueues(1e9, True), 1 << 24, CHUNK, grouped_experts=decode)


OWN = {
    "hardware": "rtx-4060-laptop-8gb",
    "stand_in_for": "gpt-oss-20b",
    "policy": "static-frequency",
    "cpu_kernel": "eager",
}


def test_resident_experts_go_to_the_devices_own_kernels_together() -> None:
    """All experts on the GPU, decoding: one call a layer, with every pair; what the kernels decline goes to torch."""
    model, kernels = tiny_moe(), KernelsByTorch()
    ids = torch.randint(3, 120, (1, 12), generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(ids, **options)
    with hetsched.attach(model, **OWN, gpu_memory="100%", accelerator=on_queues(kernels)):
        assert torch.equal(model.generate(ids, **options), expected)
        decoded = [pairs for pairs in kernels.pairs if pairs == 4]
        assert len(decoded) == 5 * 3  # steps after the prefill, layers; four experts each
        assert kernels.summed == [48] * 3 + [4] * 5 * 3
        kernels.pairs.clear()
        kernels.summed.clear()
        many = torch.randint(3, 120, (1, 70), generator=torch.Generator().manual_seed(2))
        model(many)
        assert not kernels.pairs  # more rows an expert than the kernels take
        assert not kernels.summed  # and more of all than are added at once


def test_results_of_both_lanes_are_added_at_once() -> None:
    """Half of the experts on the CPU, some alone on the GPU: one sum a layer, of all pairs in eager's order."""
    model, kernels = tiny_moe(), KernelsByTorch()
    ids = torch.randint(3, 120, (1, 12), generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(ids, **options)
    with hetsched.attach(model, **OWN, gpu_memory="50%", accelerator=on_queues(kernels)) as handle:
        assert torch.equal(model.generate(ids, **options), expected)
        assert handle.stats()["cpu_s"] > 0
    assert kernels.pairs
    assert kernels.summed == [48] * 3 + [4] * 5 * 3


@pytest.mark.parametrize(
    ("make", "up", "down", "matrices", "joined"),
    [
        (qwen3_moe, "q4_k", "q6_k", 2, "rows"),
        (gpt_oss, "mxfp4", "mxfp4", 1, "rows"),
        (gpt_oss, "gguf-mxfp4", "gguf-mxfp4", 2, "turns"),
    ],
)
def test_packed_experts_go_to_the_kernels_in_their_slots(
    make: Any, up: str, down: str, matrices: int, joined: str
) -> None:
    """Also where plain ones go to torch. A prompt's are unpacked for torch's products; a decode step's only here."""
    model, kernels = pack(make(), up, down, matrices, joined), KernelsByTorch()
    expected = logits(model)
    with hetsched.attach(model, **OWN, gpu_memory="100%", accelerator=on_queues(kernels, plain=False)) as handle:
        found = logits(model)
        assert kernels.pairs == [2] * 2 * 2  # experts a token, layers, steps
        assert kernels.unpacks > sum(kernels.pairs)
        assert handle.stats()["lossless"] is True
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


def test_lossy_copies_go_to_them_too() -> None:
    model, kernels = qwen3_moe(), KernelsByTorch()
    options = {**OWN, "stand_in_for": "qwen3-30b-a3b", "gpu_memory": "100%", "gpu_precision": "int4"}
    with hetsched.attach(model, **options, accelerator=on_queues(kernels, plain=False)):
        logits(model)
    assert kernels.pairs == [2] * 2 * 2


def test_without_a_compiler_torch_unpacks() -> None:
    """Said once; the kernels are not asked again, unless they were asked for by name."""

    class NotHere(KernelsByTorch):
        def parts(self, *_: Any, **__: Any) -> torch.Tensor:
            self.pairs.append(0)
            raise NotCompiled("no libnvrtc here")

    model, kernels = pack(qwen3_moe(), "q8_0", "q8_0"), NotHere()
    expected = logits(model)
    with (
        pytest.warns(UserWarning, match="no libnvrtc here; torch unpacks packed experts instead"),
        hetsched.attach(model, **OWN, gpu_memory="100%", accelerator=on_queues(kernels, plain=False)),
    ):
        found = logits(model)
    assert len(kernels.pairs) == 1
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


@pytest.mark.parametrize("format_", [None, *LOADS])
def test_experts_drawn_for_the_checks_are_read_by_the_kernels(format_: str | None) -> None:
    """On the host, whose bytes are as they would be on a device; sums near those of what was drawn."""
    torch.manual_seed(0)
    drawn = DrawnExperts(torch.bfloat16, format_, 256, 256, 2, torch.device("cpu"))
    hidden_TH, weight_E = torch.randn(1, 256), torch.rand(2)
    assert drawn.reading().up.columns == 256
    exact_TH = summed(drawn.weights(exact=True), hidden_TH.double(), weight_E)
    rounded_TH = summed(drawn.weights(), hidden_TH.double(), weight_E)
    assert (rounded_TH - exact_TH).norm() < 0.01 * exact_TH.norm()
    assert torch.equal(rounded_TH, exact_TH) == (format_ in (None, "bf16", "mxfp4", "gguf-mxfp4"))


@pytest.mark.parametrize("format_", [None, "q4_k"])
def test_the_check_of_kernels_judges_by_what_formats_store(
    format_: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the host, with torch for kernels and no clock: rounding alone is left, and a wrong kernel would show."""
    monkeypatch.setattr(device_check, "DecodeKernels", KernelsByTorch)
    monkeypatch.setattr(device_check, "_median_s", lambda call: 0.5)
    torch.manual_seed(0)
    found = device_check.kernels(torch.float32, format_, 256, 256, 2, device="cpu")
    assert found["fused_error"] < 1e-5
    assert (found["same_twice"], found["unpacked_alike"]) == (1, 1)
    assert found["read_gb_per_s"] == pytest.approx(2 * 3 * 256**2 * (4 if format_ is None else 4.5 / 8) / 0.5e9)
    monkeypatch.setattr(KernelsByTorch, "scatter", lambda self, part_PH, row_P, num_tokens: part_PH[:1])
    assert device_check.kernels(torch.float32, format_, 256, 256, 2, device="cpu")["fused_error"] > 0.1


@pytest.mark.parametrize("precision", ["int8", "int4", "mxfp4"])
def test_a_model_packed_for_the_checks_computes_what_it_does_unpacked(precision: str) -> None:
    check = runpy.run_path(str(CHECK))
    model, plain = tiny_moe(), tiny_moe()
    for module, other in zip(expert_modules(model), expert_modules(plain), strict=True):
        check["pack"](module, precision)
        assert isinstance(module.gate_up_proj.data, PackedStack)
        other.gate_up_proj.data = module.gate_up_proj.data.unpacked()
    assert torch.equal(logits(model), logits(plain))
    assert not torch.equal(logits(model), logits(tiny_moe()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_check_command_without_a_gpu_is_one_line() -> None:
    done = subprocess.run([sys.executable, CHECK], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_error_is_one_line() -> None:
    with pytest.raises(InputError) as caught:
        CudaAccelerator()
    assert "\n" not in str(caught.value)
