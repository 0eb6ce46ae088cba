"""Tokens of which every layer is a few entries of a queue: ids to the mail, the step, a kernel that reads its rows.

The step and the look ahead are host nodes, functions of C on the stream's own thread; Python queues whole tokens and
waits. A thread copies what the step asks for, into memory of the device.

Shapes: M tokens, L layers, K top-k, F experts flat, S slots.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch

from hetsched.deciders.c_step import CStep
from hetsched.deciders.mail import (
    AWAITS,
    COUNT,
    EXPERT,
    FAILED,
    FELL_BACK,
    LANE,
    ROWS,
    SLOT,
    WAITING,
    CopyServer,
    Mail,
    new_mail,
    new_queue,
)
from hetsched.geometry import MoEGeometry
from hetsched.jit import compiled_and_kept
from hetsched.jit.c_call import CFunction
from hetsched.jit.shared import observed
from hetsched.machine import gallery
from hetsched.scheduler import Scheduler
from hetsched.types import Phase

SHAPE = MoEGeometry("made", 4, 12, 3, 2048, 768, dense_params=20_000_000)
SLOTS, TOKENS = 16, 40
ON_GPU, AWAITED, WRONG, FELL = range(4)  # of `seen_4`


@compiled_and_kept
def grouped(mail: Any, state_S: Any, device_S: Any, host_F: Any, out_2: Any, out_ML: Any, seen_4: Any) -> None:
    """In place of a device's grouped kernel, and of the CPU lane: the sum of weight times expert, which is a number.

    Rows that await their copy are waited for; where the slot holds another expert, that is counted.
    """
    at, told, rows = mail[0], mail[3], mail[4]
    experts = len(host_F) // out_ML.shape[1]
    total, pair = 0.0, 0
    seen_4[FELL] += told[FELL_BACK]
    for i in range(told[ROWS]):
        f = at[0] * experts + rows[EXPERT, i]
        number = host_F[f]
        if rows[LANE, i]:
            slot = rows[SLOT, i]
            while rows[AWAITS, i] and observed(state_S, slot) == WAITING:
                pass
            seen_4[ON_GPU] += 1
            seen_4[AWAITED] += rows[AWAITS, i]
            number = device_S[slot]
            seen_4[WRONG] += number != host_F[f] or observed(state_S, slot) == FAILED
        for _ in range(rows[COUNT, i]):
            total += mail[6][pair] * number
            pair += 1
    out_ML[out_2[0], out_2[1]] = total
    out_2[1] += 1
    if out_2[1] == out_ML.shape[1]:
        out_2[0], out_2[1] = out_2[0] + 1, 0


def tokens_of_host_nodes(device: torch.device, library: Any, policy: str) -> dict[str, Any]:
    """Queue every layer of all tokens at once, and see what came of them."""

    def pinned(shape: tuple[int, ...], dtype: Any) -> Any:
        return torch.zeros(shape, dtype=getattr(torch, np.dtype(dtype).name), pin_memory=True).numpy()

    machine = gallery.machine("rtx-4060-laptop-8gb")
    scheduler = Scheduler(SHAPE, machine, SLOTS * SHAPE.expert_bytes, policy=policy)
    layers, top_k, experts = SHAPE.num_layers, SHAPE.top_k, SHAPE.num_experts
    mail, queue = new_mail(1, top_k, experts, pinned), new_queue(SLOTS, pinned)
    step = CStep(scheduler.decider.calls, scheduler.arrays, scheduler.seconds, mail, queue)  # type: ignore[attr-defined]
    host_F = torch.arange(1.0, layers * experts + 1, dtype=torch.float64)
    device_S = torch.zeros(SLOTS, dtype=torch.float64, device=device)
    for expert in scheduler.residency.residents():
        f = expert.layer * experts + expert.expert
        device_S[scheduler.board.slot_F[f]] = host_F[f]
    torch.accelerator.synchronize()
    out_ML, seen_4 = np.zeros((TOKENS, layers)), np.zeros(4, np.int64)
    on_device_S = _at(device_S)
    kernel = CFunction(
        (grouped, (tuple(mail), queue.state_S, on_device_S, host_F.numpy(), np.zeros(2, np.int64), out_ML, seen_4))
    )
    asked_ML4, ids_MLK, weights_MLK = _routing(np.random.default_rng(2))
    copying, over = CopyThread(CopyServer(queue), host_F, device_S), out_ML.size
    with copying:
        _queue_tokens(library, mail, (asked_ML4, ids_MLK, weights_MLK), device, step, kernel)
    first_L = np.arange(layers)[:, None] * experts
    expected_ML = (weights_MLK.astype(np.float64) * host_F.numpy()[first_L + ids_MLK]).sum(2)
    scheduler.residency.check()
    return {
        "right": int(np.isclose(out_ML, expected_ML, rtol=1e-12).sum()),
        "layers": over,
        **dict(zip(("on_gpu", "awaited", "wrong", "fell_back"), seen_4.tolist(), strict=True)),
        "served": copying.served,
        "chosen": scheduler.stats.demanded_fetches + scheduler.stats.prefetches,
    }


def _routing(random: np.random.Generator) -> tuple[Any, Any, Any]:
    shape = TOKENS, SHAPE.num_layers, SHAPE.num_experts
    favour_E = np.log(np.arange(1, SHAPE.num_experts + 1))
    ids_MLK = np.argsort(favour_E - random.gumbel(size=shape), axis=2)[..., : SHAPE.top_k]
    weights_MLK = random.integers(1, 9, ids_MLK.shape).astype(np.float32)
    asked_ML4 = np.zeros((*shape[:2], 4), np.int64)
    asked_ML4[:, :, 0], asked_ML4[:, :, 1], asked_ML4[:, :, 2] = np.arange(shape[1]), 1, Phase.DECODE
    return asked_ML4, ids_MLK, weights_MLK


def _queue_tokens(library: Any, mail: Mail, routing: Any, device: torch.device, step: CStep, kernel: CFunction) -> None:
    """Every layer: three copies to the mail, the step; beside the kernel, on a stream of its own, the look ahead."""
    main, side = torch.Stream(device), torch.Stream(device)
    on_device = [torch.from_numpy(array).to(device) for array in routing]
    targets = [torch.from_numpy(array) for array in (mail.asked_4, mail.ids_TK[0], mail.weights_TK[0])]

    def node(stream: torch.Stream, function: CFunction) -> None:
        library.host_node(stream.stream_id, function.address, function.words.ctypes.data)

    for m in range(TOKENS):
        for layer in range(SHAPE.num_layers):
            with main:
                for source, target in zip(on_device, targets, strict=True):
                    target.copy_(source[m, layer], non_blocking=True)
            node(main, step.step)
            decided = main.record_event()
            side.wait_event(decided)
            node(side, step.ahead)
            node(main, kernel)
            main.wait_event(side.record_event())
    main.synchronize()


def _at(tensor: torch.Tensor) -> Any:
    """Device memory as a host array, for what stands in for a device's kernel; the device is one of threads."""
    import ctypes

    return np.ctypeslib.as_array((ctypes.c_double * tensor.numel()).from_address(tensor.data_ptr()))


class CopyThread:
    """Serves a queue: each copy on a stream of its own, and told of when it has wholly arrived."""

    def __init__(self, server: CopyServer, host_F: torch.Tensor, device_S: torch.Tensor) -> None:
        self.served = 0
        self._server, self._host_F, self._device_S = server, host_F, device_S
        self._stream, self._over = torch.Stream(device_S.device), threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            taken = self._server.take()
            if taken is None:
                if self._over.wait(1e-5):
                    return
                continue
            slot, f = taken
            with self._stream:
                self._device_S[slot : slot + 1].copy_(self._host_F[f : f + 1], non_blocking=True)
            self._stream.synchronize()
            self._server.end(slot)
            self.served += 1
