"""What is wrong with a trace's arrays: every kind of fault with its count and first position.

Shapes: T tokens, L layers, K ids a row, H width of the model, C tokens of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..types import BoolArray, Phase
from .meta import meta_problems, read_meta
from .routers import router_problems

Array = npt.NDArray[Any]

REQUIRED = ("experts", "sequence", "phase", "meta")
OPTIONAL = ("weights", "step", "kept", "hidden")
_DTYPES = {
    "experts": "int16",
    "weights": "float16",
    "sequence": "int32",
    "phase": "uint8",
    "step": "int32",
    "kept": "uint8",
    "hidden": "float16",
}
_CHUNK_VALUES = 1 << 19  # ids checked at a time: a few MB with all temporaries
_KNOWN_PHASES = np.array([int(phase) for phase in Phase], np.uint8)


def chunks(num_tokens: int, values_per_token: int = 1, chunk_values: int = _CHUNK_VALUES) -> Iterator[slice]:
    """Consecutive runs of tokens with about `chunk_values` values each."""
    step = max(1, chunk_values // max(values_per_token, 1))
    for start in range(0, num_tokens, step):
        yield slice(start, min(start + step, num_tokens))


def examine(arrays: Mapping[str, Array]) -> tuple[dict[str, Any], list[str]]:
    """The meta object of a trace's arrays, and all that is wrong with them, a line each."""
    missing = [f"no array {name!r}; a trace has {', '.join(REQUIRED)}" for name in REQUIRED if name not in arrays]
    meta, found = read_meta(arrays["meta"]) if "meta" in arrays else ({}, [])
    is_read = "meta" in arrays and not found
    experts = arrays.get("experts")
    if experts is None:
        return meta, missing + found
    shape = experts.shape if experts.ndim == 3 else (None, None, None)
    form = _form_problems(arrays) + router_problems(arrays)
    if is_read:
        found += meta_problems(meta, shape[1], shape[2])
    contents: list[str] = []
    if not form:
        repeats, num_experts = meta.get("repeats_allowed") is True, meta.get("num_experts")
        contents += _id_problems(experts, num_experts if type(num_experts) is int else None, repeats)
    contents += _run_problems({name: array for name, array in arrays.items() if not _badly_formed(name, array)})
    return meta, missing + form + found + contents


def _badly_formed(name: str, array: Array) -> bool:
    return name not in _DTYPES or array.dtype != np.dtype(_DTYPES[name]) or not array.ndim


def _form_problems(arrays: Mapping[str, Array]) -> list[str]:
    experts = arrays["experts"]
    if experts.ndim != 3 or experts.dtype != np.int16:
        return [f"experts is {experts.dtype} {experts.shape}, expected int16 [tokens, layers, top_k]"]
    if not experts.size:
        return [f"experts is empty: {experts.shape}"]
    found = []
    for name, dtype in _DTYPES.items():
        if name in arrays and arrays[name].dtype != np.dtype(dtype):
            found.append(f"{name} is {arrays[name].dtype}, expected {dtype}")
        shape = experts.shape if name in ("experts", "weights") else experts.shape[:1]
        if name == "hidden" and name in arrays:
            shape = (*experts.shape[:2], max(arrays[name].shape[-1], 1) if arrays[name].ndim == 3 else "width")
        if name in arrays and arrays[name].shape != shape:
            found.append(f"{name} has shape {arrays[name].shape}, expected {shape}")
    return found


class _Fault:
    """Counts one kind of fault over chunks and remembers where the first one is."""

    def __init__(self, text: str, third: str = "choice") -> None:
        self.text, self.count, self.first = text, 0, ""
        self._names = ("token", "layer", third)

    def add(self, bad: BoolArray, start: int, values: Array | None = None) -> None:
        """Count the true entries of `bad`, whose first axis begins at token `start`."""
        count = int(np.count_nonzero(bad))
        if count and not self.count:
            at = np.unravel_index(int(np.argmax(bad)), bad.shape)
            place = ", ".join(
                f"{name} {int(i) + (start if name == 'token' else 0)}" for name, i in zip(self._names, at, strict=False)
            )
            self.first = place if values is None else f"{values[at]} at {place}"
        self.count += count

    def lines(self) -> list[str]:
        """The fault as a line, if it occurred."""
        return [f"{self.text}: {self.count}, first {self.first}"] if self.count else []


def _id_problems(experts_TLK: Array, num_experts: int | None, repeats_allowed: bool) -> list[str]:
    top = np.inf if num_experts is None else num_experts
    outside = _Fault(f"experts has ids outside 0..{num_experts and num_experts - 1} (meta.num_experts)")
    repeated = _Fault("experts has rows that name an expert twice (if the model does so, set meta.repeats_allowed)")
    for part in chunks(len(experts_TLK), experts_TLK[0].size):
        chosen_CLK = np.asarray(experts_TLK[part])
        if chosen_CLK.min() < 0 or chosen_CLK.max() >= top:
            outside.add((chosen_CLK < 0) | (chosen_CLK >= top), part.start, chosen_CLK)
        if not repeats_allowed:
            repeated.add(has_repeat(chosen_CLK), part.start)
    return outside.lines() + repeated.lines()


def has_repeat(chosen_CLK: Array) -> BoolArray:
    """Rows with two equal ids, [C, L]."""
    by_choice_KCL = np.ascontiguousarray(np.moveaxis(chosen_CLK, 2, 0))
    found_CL = np.zeros(chosen_CLK.shape[:2], bool)
    for i in range(1, len(by_choice_KCL)):
        for j in range(i):
            found_CL |= by_choice_KCL[i] == by_choice_KCL[j]
    return found_CL


def _run_problems(arrays: Mapping[str, Array]) -> list[str]:
    found = []
    for name in ("sequence", "step"):
        if name in arrays and arrays[name].ndim == 1:
            found += _order_problems(name, arrays[name])
    phase = _Fault(f"phase has values other than {', '.join(str(int(p)) for p in Phase)}")
    if "phase" in arrays:
        for part in chunks(len(arrays["phase"])):
            phase.add(~np.isin(arrays["phase"][part], _KNOWN_PHASES), part.start, arrays["phase"][part])
    found += phase.lines()
    if "kept" in arrays:
        found += _kept_problems(arrays["kept"], "step" in arrays)
    for name, third in (("weights", "choice"), ("hidden", "number")):
        fault = _Fault(f"{name} has values that are not finite", third)
        if name in arrays:
            for part in chunks(len(arrays[name]), max(arrays[name][:1].size, 1)):
                fault.add(~np.isfinite(arrays[name][part]), part.start, arrays[name][part])
        found += fault.lines()
    return found


def _kept_problems(kept_T: Array, has_steps: bool) -> list[str]:
    """Ones and zeros; and where there are zeros, it must be known which tokens were verified together."""
    other, rejected = _Fault("kept has values other than 0, 1"), 0
    for part in chunks(len(kept_T)):
        other.add(kept_T[part] > 1, part.start, kept_T[part])
        rejected += int(np.count_nonzero(kept_T[part] == 0))
    found = other.lines()
    if rejected and not has_steps:
        found.append(f"kept has {rejected} rejected tokens, but no array 'step' says what was verified together")
    return found


def _order_problems(name: str, values_T: Array) -> list[str]:
    """Numbers must not decrease: tokens of one sequence (or step) stand together."""
    falls, negative = _Fault(f"{name} decreases"), _Fault(f"{name} has negative numbers")
    before_C = values_T[:1]
    for part in chunks(len(values_T)):
        values_C = np.asarray(values_T[part])
        falls.add(values_C < np.concatenate([before_C, values_C[:-1]]), part.start, values_C)
        negative.add(values_C < 0, part.start, values_C)
        before_C = values_C[-1:]
    return falls.lines() + negative.lines()
