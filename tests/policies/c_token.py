"""A whole token as one C function, and what the scheduler says of the same demands; copies go by a stated order.

Shapes: L layers, T tokens, K top-k, N experts of a layer, P pairs, S slots.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hetsched.deciders.c_step import CStep
from hetsched.deciders.mail import CopyServer, new_mail, new_queue
from hetsched.geometry import MoEGeometry
from hetsched.jit import compiled_and_kept
from hetsched.jit.c_call import CFunction
from hetsched.machine import gallery
from hetsched.scheduler import Scheduler
from hetsched.types import Demand, ExpertId, Lane, LinkState, Phase, Plan

SHAPE = MoEGeometry("made", 4, 12, 3, 2048, 768, dense_params=20_000_000)
MOST_TOKENS = 5
Layer = tuple[list[list[int]], list[tuple[int, float]]]  # rows: expert, on the GPU, slot, tokens, awaits; and pairs


class Kept(NamedTuple):
    """What the mail said of each layer of a token."""

    told_L4: Any
    rows_L5N: Any
    token_LP: Any
    weight_LP: Any


@compiled_and_kept
def send(asked_L4: Any, ids_LTK: Any, weights_LTK: Any, layer: int, mail: Any) -> None:
    """What a device's kernel would write into the mail."""
    mail[0][:], mail[1][:], mail[2][:] = asked_L4[layer], ids_LTK[layer], weights_LTK[layer]


@compiled_and_kept
def keep(mail: Any, kept: Any, layer: int) -> None:
    """What a device's kernel would read there."""
    kept[0][layer], kept[1][layer], kept[2][layer], kept[3][layer] = mail[3], mail[4], mail[5], mail[6]


def made(policy: Any, slots: int) -> Scheduler:
    return Scheduler(SHAPE, gallery.machine("rtx-4060-laptop-8gb"), slots * SHAPE.expert_bytes, policy=policy)


class Token:
    """All layers of a token as `function`, from arrays that hold its routing."""

    def __init__(self, scheduler: Scheduler) -> None:
        layers, experts, top_k = SHAPE.num_layers, SHAPE.num_experts, SHAPE.top_k
        mail, queue = new_mail(MOST_TOKENS, top_k, experts), new_queue(len(scheduler.board.free_S))
        self.step = CStep(scheduler.decider.calls, scheduler.arrays, scheduler.seconds, mail, queue)  # type: ignore[attr-defined]
        self.server = CopyServer(queue)
        self.asked_L4 = np.zeros((layers, 4), np.int64)
        self.ids_LTK = np.zeros((layers, MOST_TOKENS, top_k), np.int64)
        self.weights_LTK = np.zeros((layers, MOST_TOKENS, top_k), np.float32)
        pairs = (layers, MOST_TOKENS * top_k)
        rows, told = np.zeros((layers, 5, experts), np.int64), np.zeros((layers, 4), np.int64)
        self.kept = Kept(told, rows, np.zeros(pairs, np.int64), np.zeros(pairs, np.float32))
        sent, calls = (self.asked_L4, self.ids_LTK, self.weights_LTK), []
        for layer in range(layers):
            calls += [(send, (*sent, layer, tuple(mail))), *self.step.step.calls]
            calls += [(keep, (tuple(mail), tuple(self.kept), layer)), *self.step.ahead.calls]
        self.function = CFunction(*calls)

    def ask(self, ids_TLK: Any, weights_TLK: Any, phase: Phase, new: bool) -> None:
        """The routing of one step."""
        tokens = len(ids_TLK)
        self.asked_L4[:] = [(layer, tokens, phase, new) for layer in range(SHAPE.num_layers)]
        self.ids_LTK[:, :tokens] = ids_TLK.swapaxes(0, 1)
        self.weights_LTK[:, :tokens] = weights_TLK.swapaxes(0, 1)

    def answer(self, layer: int) -> Layer:
        """A layer's rows and pairs."""
        rows, _, pairs, fell_back = self.kept.told_L4[layer].tolist()
        assert not fell_back
        found = zip(
            self.kept.token_LP[layer, :pairs].tolist(), self.kept.weight_LP[layer, :pairs].tolist(), strict=True
        )
        return self.kept.rows_L5N[layer, :, :rows].T.tolist(), list(found)


class PlainLink:
    """The queue's rules once more, in plain Python: who is under way, in order, and what the scheduler is told."""

    def __init__(self, scheduler: Scheduler) -> None:
        scheduler.recalibration.begin_step = lambda: None  # nothing is measured here, nor by a step in C
        self.machine = scheduler.cost
        self.chunk_s = float(scheduler.board.machine[1])
        self.line: list[tuple[ExpertId, bool]] = []
        self.arrived: list[ExpertId] = []

    def add(self, expert: ExpertId, urgent: bool) -> None:
        """Behind the urgent ones, or last."""
        self.line.append((expert, urgent))
        self.line.sort(key=lambda entry: not entry[1])

    def want(self, expert: ExpertId) -> None:
        """Demanded now: behind those that are already."""
        entry = next(entry for entry in self.line if entry[0] == expert)
        if not entry[1]:
            self.line.remove(entry)
            self.add(expert, True)

    def serve(self, count: int) -> None:
        """So many copies arrive."""
        self.arrived += [expert for expert, _ in self.line[:count]]
        del self.line[:count]

    def state(self) -> LinkState:
        """Reported once."""
        copy_s, arrived, self.arrived = self.machine.copy_s(), tuple(self.arrived), []
        waits_s = self.chunk_s if self.line and not self.line[0][1] else 0.0
        free_s = waits_s + copy_s * sum(urgent for _, urgent in self.line)
        return LinkState(free_s, arrived, tuple((e, copy_s * (i + 1)) for i, (e, _) in enumerate(self.line)))


def planned(scheduler: Scheduler, link: PlainLink, demand: Demand, ids_TK: Any, weights_TK: Any) -> Layer:
    """The same layer by the scheduler, its copies submitted, and those ahead too."""
    plan = scheduler.step(demand, link.state())
    layer = _layer(scheduler, plan, ids_TK, weights_TK)
    waiting = {expert for expert, _ in link.line}
    for run in plan.runs:
        if run.lane is Lane.GPU and run.expert in waiting:
            link.want(run.expert)
    for fetch in plan.fetches:
        link.add(fetch.expert, True)
    for fetch in scheduler.prefetch(link.state()).fetches:
        link.add(fetch.expert, False)
    return layer


def _layer(scheduler: Scheduler, plan: Plan, ids_TK: Any, weights_TK: Any) -> Layer:
    rows, pairs, slot_F = [], [], scheduler.board.slot_F
    for run in plan.runs:
        on_gpu = run.lane is Lane.GPU
        slot = int(slot_F[run.expert.layer * SHAPE.num_experts + run.expert.expert]) if on_gpu else -1
        awaits = on_gpu and scheduler.residency.is_copying(run.expert)
        rows.append([run.expert.expert, int(on_gpu), slot, run.num_tokens, int(awaits)])
        choices = np.argwhere(run.expert.expert == ids_TK.T).tolist()
        pairs += [(t, float(weights_TK[t, k])) for k, t in choices]
    return rows, pairs
