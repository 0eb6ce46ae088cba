"""CpuOnlyEngine: a model's experts on a machine without an accelerator, where there is nothing to decide.

Shapes: T tokens, H hidden, E experts.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch

from ..accelerators.base import Accelerator
from ..cpu_kernels import Choice, weighted_sum
from ..errors import InputError
from ..packed import PackedWeights
from ..scheduler import Scheduler
from ..types import ExpertId, FloatArray, Outcome, Phase
from .cpu_layer import ExactExperts, Scratch, sort_by_expert
from .cpu_measured import MeasuredExperts
from .cpu_packed import PackedOrExact, packed_experts
from .engine import CLOSED
from .host_store import HostStore
from .host_time import HostTime
from .layer_work import LayerInput, demand_of
from .living import lives

LayerExperts: TypeAlias = ExactExperts | MeasuredExperts | PackedOrExact


def by_choice(module: Any, weights_E: Sequence[Any], choice: Choice, exact: ExactExperts) -> LayerExperts:
    """One layer's experts by the kernels of a choice; `exact` for packed ones that no kernel reads."""
    if not isinstance(weights_E[0], PackedWeights):
        return MeasuredExperts(module, weights_E, choice, exact)
    packed = packed_experts(module, weights_E, choice)
    return exact if packed is None else PackedOrExact(packed, exact)


class CpuOnlyEngine:
    """Every expert in the calling thread, a layer at a time; threads take turns. Seconds are wall-clock.

    Takes the place of Engine where no device is. `scheduler` keeps the statistics; its policy has no slot to fill.
    `accelerator`: what takes the time. `choice`: the kernels to compute with, None for transformers' own operations,
    bit for bit.
    """

    def __init__(self, scheduler: Scheduler, accelerator: Accelerator, choice: Choice | None = None) -> None:
        self.scheduler = scheduler
        self.accelerator = accelerator
        self.store = HostStore()
        self.host = HostTime(accelerator, accelerator.emulated, scheduler.stats)
        self.phase: Phase | None = None  # of the forward pass, where it is known
        self.kept_T: FloatArray | None = None  # as Engine's, and nobody here learns from it
        self._choice = choice
        self._scratch = Scratch()
        self._layers: dict[int, LayerExperts] = {}
        self._turn = threading.RLock()
        self._last_phase = Phase.PREFILL
        self._closed = False
        lives(self)

    @property
    def gpu_expert_bytes(self) -> int:
        """No device memory is held."""
        return 0

    def adopt(self, layer: int, module: Any) -> None:
        """Take over one layer's experts."""
        layout = self.store.adopt(layer, module)
        weighted_sum.make_ready(layout.pieces[0].dtype)
        weights_E = [self.store.weights(ExpertId(layer, e)) for e in range(module.num_experts)]
        exact = ExactExperts(module, weights_E, self._scratch)
        self._layers[layer] = exact if self._choice is None else by_choice(module, weights_E, self._choice, exact)

    def give_back(self, layer: int, *modules: Any) -> None:
        """Return one layer's experts to their module, or modules that share them. May be called twice."""
        self._layers.pop(layer, None)
        self.store.give_back(layer, *modules)

    def reload(self, layers: Iterable[int]) -> None:
        """Nothing was copied from the weights; they are read where they are."""

    def forward(self, work: LayerInput) -> torch.Tensor:
        """One layer's experts: the sum of their contributions [T, H]. An error leaves nothing to put right."""
        if not work.ids_TK.is_cpu:
            raise InputError(
                f"the model is on {work.ids_TK.device} and hetsched was attached without an accelerator; "
                "move the model to the CPU, or choose accelerator='cuda'"
            )
        with self._turn, torch.no_grad():
            if self._closed:
                raise InputError(CLOSED)
            self.host.resume(work.entered_s)
            try:
                return self._forward(work)
            except BaseException:
                self.scheduler.drop_copies()
                raise

    def _forward(self, work: LayerInput) -> torch.Tensor:
        demand = demand_of(work, self.scheduler, self.phase)
        self._last_phase = demand.phase
        if not demand.active:  # no token, or all experts on other ranks
            return torch.zeros_like(work.hidden_TH)
        self.host.charged()
        dense_s = self.accelerator.begin_layer(0.0)
        plan = self.scheduler.step(demand)
        self.accelerator.decided(plan.decision_s)
        self.host.resume()
        tokens = sort_by_expert(work.ids_TK, work.weights_TK, demand.active, demand.tokens)
        self.host.pause()
        out_TH = self._layers[work.layer].forward(work.hidden_TH, tokens, work.arithmetic)
        makespan_s = self.accelerator.end_layer(())
        self.host.resume()
        self.scheduler.observe(Outcome(plan, dense_s, makespan_s, cpu_s=makespan_s))
        self.host.pause()
        return out_TH

    def begin_step(self, phase: Phase | None, new_request: bool = False, drafting: bool = False) -> None:
        """A forward pass begins, of a known phase or not, the first of a request or not; or one that makes drafts."""
        if self._closed:
            raise InputError(CLOSED)
        with self._turn:
            self.phase = phase
            self.scheduler.begin_step(new_request, drafting)
            self.accelerator.begin_step()

    def end_step(self) -> None:
        """A forward pass has ended."""
        with self._turn:
            self.scheduler.stats.record_tail(self._last_phase, self.accelerator.end_step())

    def check(self) -> None:
        """There is no residency to agree with."""

    def close(self) -> None:
        """Refuse what comes later, after the layer under way. May be called twice."""
        with self._turn:
            self._closed = True

    def forked(self) -> None:
        """This is the child of a fork: whoever held the turn is not here."""
        self._turn = threading.RLock()
