"""One layer's work: what the router hands over, which rows each expert gets, and what of it is under way.

Shapes: T tokens, K top-k, H hidden, N active experts, S = tokens sorted by expert.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch

from ..scheduler import Scheduler
from ..types import Demand, FloatArray, Phase
from .expert_ffn import PLAIN, Arithmetic


class LayerInput(NamedTuple):
    """What the router hands to one layer's experts: `hidden_TH`, expert `ids_TK` and router `weights_TK`.

    An id of num_experts or more belongs to no expert here and adds nothing. `arithmetic`: where the module rounds.
    `cast_to`: what torch.autocast casts products to in the caller's thread; None without. `entered_s`: what
    time.thread_time() said at the door; None where nobody looked.
    """

    layer: int
    module: Any
    hidden_TH: torch.Tensor
    ids_TK: torch.Tensor
    weights_TK: torch.Tensor
    arithmetic: Arithmetic = PLAIN
    cast_to: torch.dtype | None = None
    entered_s: float | None = None


def demand_of(work: LayerInput, scheduler: Scheduler, phase: Phase | None, kept_T: FloatArray | None = None) -> Demand:
    """What the router asks of each expert, with weights where the policy uses them; ids of no expert here are left out.

    A `phase` that nobody knows is decode for one token, prefill for more. `kept_T` [T]: P(the token stays in the text)
    of each row, where some are drafts.
    """
    ids_TK, here, experts = work.ids_TK, work.module.num_experts, scheduler.geometry.num_experts
    tokens, top_k = ids_TK.shape
    if phase is None:
        phase = Phase.DECODE if tokens == 1 else Phase.PREFILL
    weighs, drafts = scheduler.traits.uses_weights, kept_T is not None and len(kept_T) == tokens
    if tokens and not weighs and not drafts and ids_TK.dtype is torch.int64 and ids_TK.is_contiguous():
        return scheduler.routed_demand(work.layer, phase, tokens, (ids_TK.data_ptr(), top_k, here, ids_TK.numpy))
    weights_E = _weights_E(work, here, experts) if weighs else None
    tokens_E = np.bincount(ids_TK.numpy().ravel(), minlength=experts)[:experts]
    tokens_E[here:] = 0  # layers may have fewer experts than others
    if kept_T is None or not drafts:
        return scheduler.demand(work.layer, tokens_E, tokens, phase, weights_E)
    kept_P = np.repeat(kept_T, top_k)
    kept_E: FloatArray = np.bincount(ids_TK.numpy().ravel(), kept_P, experts)[:experts].astype(np.float64)
    return scheduler.demand(work.layer, tokens_E, tokens, phase, weights_E, kept_E, float(kept_T.sum()))


def _weights_E(work: LayerInput, here: int, experts: int) -> FloatArray:
    """Router weight of each expert, summed over tokens: float64 [E].

    Rounded to 16 bits first, as traces hold them, so that a replay of what was recorded decides alike.
    """
    weights_TK = work.weights_TK.detach().to("cpu", torch.float16).double().numpy()
    sum_E = np.bincount(work.ids_TK.numpy().ravel(), weights_TK.ravel(), experts)[:experts].astype(np.float64)
    sum_E[here:] = 0.0
    return sum_E


def cast_dtype(device: torch.device) -> torch.dtype | None:
    """What torch.autocast casts products on this device to in the calling thread; None where it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def casting(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """The same casts in another thread. Without autocast's cache: an expert's weights are used once a layer."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype, cache_enabled=False)
