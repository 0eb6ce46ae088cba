"""Routers of a model as numbers: from hidden states at one layer to what the next layers' routers would say of them.

Shapes: L layers, C outputs of a router's linear map (E experts first, then what else it scores), H width, T tokens,
D layers ahead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..types import Float32Array

PREFIX = "router_"
MARGIN = 0.01  # as integrations/steered_router.py has it
Array = npt.NDArray[Any]
_DTYPES = {"weight": "float32", "bias": "float32", "choice": "float32", "forced": "int8", "sigmoid": "uint8"}
_DTYPES |= {"undo": "float32"}
_LEAST = np.float32(1e-30)


class Routers(NamedTuple):
    """All routers of a model, layer by layer, each a linear map with a softmax, or a sigmoid, after it.

    `weight` [L, C, H] acts on hidden states before the gain of the layer's own normalisation, which is in it; `undo`
    [L, H] takes that gain off states at a layer's router: one over it, 1 where no normalisation was found, 0 where the
    gain is 0.
    `bias` [L, C] is of the linear map, minus infinity for outputs that a layer does not have; `choice` [L, C] is added
    after softmax or sigmoid (which `sigmoid` [L] says), for the choice alone. `forced` [L, C]: 1 for an expert that
    steering forces on, -1 off.
    """

    weight: Float32Array
    bias: Float32Array
    choice: Float32Array
    forced: npt.NDArray[np.int8]
    sigmoid: npt.NDArray[np.uint8]
    undo: Float32Array

    def ahead(self, layer: int, hidden_TH: Array, distance: int, num_experts: int) -> Float32Array:
        """Probabilities by the routers of the next `distance` layers, float32 [D, T, E]; fewer near the last layer.

        By them each router ranks its experts: with its choice bias added, they may pass 1, and none is below 0.
        """
        return self.of(range(layer + 1, min(layer + 1 + distance, len(self.undo))), layer, hidden_TH, num_experts)

    def of(self, asked: range, layer: int, hidden_TH: Array, num_experts: int) -> Float32Array:
        """The same by the routers of consecutive layers, on hidden states at the router of `layer`."""
        return self._of_plain(asked, hidden_TH.astype(np.float32, copy=False) * self.undo[layer], num_experts)

    def of_embedded(self, asked: range, embedded_TH: Array, num_experts: int) -> Float32Array:
        """The same on tokens' embeddings, which no layer has seen, brought to a root mean square of 1."""
        plain_TH = embedded_TH.astype(np.float32, copy=False)
        mean_T1 = np.square(plain_TH).mean(axis=1, keepdims=True)
        return self._of_plain(asked, plain_TH / np.sqrt(np.maximum(mean_T1, _LEAST)), num_experts)

    def _of_plain(self, asked: range, plain_TH: Float32Array, num_experts: int) -> Float32Array:
        part, (layers, columns, width) = slice(asked.start, asked.stop), (len(asked), *self.weight.shape[1:])
        flat = self.weight[part].reshape(layers * columns, width) @ plain_TH.T
        logits_DTC = flat.reshape(layers, columns, len(plain_TH)).transpose(0, 2, 1) + self.bias[part, None]
        if not (self.sigmoid[part].any() or self.choice[part].any() or self.forced[part].any()):
            return np.ascontiguousarray(_softmax(logits_DTC)[:, :, :num_experts])
        gates_DTE = np.empty((layers, len(plain_TH), num_experts), np.float32)
        for d, l in enumerate(asked):
            gates_DTE[d] = self._ranked(l, logits_DTC[d], num_experts)
        return gates_DTE

    def _ranked(self, layer: int, logits_TC: Float32Array, num_experts: int) -> Float32Array:
        """From a router's logits to what it ranks its experts by, [T, E]."""
        on_E, off_E = (self.forced[layer, :num_experts] == which for which in (1, -1))
        steered = bool(on_E.any() or off_E.any())
        if steered:
            score_TE = logits_TC[:, :num_experts]
            there_E = np.isfinite(self.bias[layer, :num_experts])
            highest_T1 = score_TE.max(axis=1, keepdims=True)
            lowest_T1 = score_TE[:, there_E].min(axis=1, keepdims=True)
            raised_TE = np.where(on_E, highest_T1 + MARGIN, score_TE)
            logits_TC[:, :num_experts] = np.where(off_E, lowest_T1 - MARGIN, raised_TE)
        p_TC = _sigmoid(logits_TC) if self.sigmoid[layer] else _softmax(logits_TC)
        if not self.choice[layer].any():
            return p_TC[:, :num_experts]
        p_TE: Float32Array = np.maximum(p_TC + self.choice[layer], 0)[:, :num_experts]
        if steered:  # a bias may have undone what the logits say
            p_TE = np.where(on_E, p_TE.max(axis=1, keepdims=True), np.where(off_E, np.float32(0), p_TE))
        return p_TE

    def arrays(self) -> dict[str, Array]:
        """What a trace file holds of them, by name."""
        return {PREFIX + name: array for name, array in self._asdict().items()}

    def same_as(self, other: Routers) -> bool:
        """Whether all numbers are equal."""
        ours, theirs = self.arrays(), other.arrays()
        return all(np.array_equal(ours[name], theirs[name]) for name in ours)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Array]) -> Routers | None:
        """The routers among a trace's arrays, if there are any."""
        found = {name: arrays[PREFIX + name] for name in cls._fields if PREFIX + name in arrays}
        return cls(**found) if len(found) == len(cls._fields) else None


ARRAYS = tuple(PREFIX + name for name in Routers._fields)


def router_problems(arrays: Mapping[str, Array]) -> list[str]:
    """What is wrong with the routers among a trace's arrays, a line each."""
    there = [name for name in ARRAYS if name in arrays]
    if not there:
        return []
    if missing := [name for name in ARRAYS if name not in arrays]:
        return [f"no array {missing[0]!r} beside {there[0]!r}; routers are stored whole"]
    experts, weight = arrays["experts"], arrays["router_weight"]
    if weight.ndim != 3 or experts.ndim != 3 or weight.shape[0] != experts.shape[1] or not weight.size:
        return [f"router_weight has shape {weight.shape}, expected [layers, outputs, width]"]
    layers, columns, width = weight.shape
    shapes = {"weight": weight.shape, "sigmoid": (layers,), "undo": (layers, width)}
    found = []
    for name, dtype in _DTYPES.items():
        array, shape = arrays[PREFIX + name], shapes.get(name, (layers, columns))
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            found.append(f"router_{name} is {array.dtype} {array.shape}, expected {dtype} {shape}")
        elif not (np.isfinite(array) | (array == -np.inf if name == "bias" else False)).all():
            found.append(f"router_{name} has values that are not finite")
    hidden = arrays.get("hidden")
    if hidden is not None and hidden.ndim == 3 and hidden.shape[2] != width:
        found.append(f"router_weight takes hidden states of {width} numbers, hidden has {hidden.shape[2]}")
    return found


def _softmax(logits: Float32Array) -> Float32Array:
    """Over the last axis."""
    power: Float32Array = np.exp(logits - logits.max(axis=-1, keepdims=True))
    power /= power.sum(axis=-1, keepdims=True)
    return power


def _sigmoid(logits_TC: Float32Array) -> Float32Array:
    """Without overflow: exp of what is not positive alone."""
    small_TC = np.exp(-np.abs(logits_TC))
    p_TC: Float32Array = np.where(logits_TC < 0, small_TC, np.float32(1)) / (1 + small_TC)
    return p_TC
