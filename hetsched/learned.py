"""What runs have learned of a model's routing, in a file: popularity of experts, and what forecasters keep.

All of it are sums over what was seen, so that files of several runs or workloads add up, and scaling one down is
forgetting. Format "hetsched-learned/1": an .npz without pickles, written whole or not at all. It belongs to models of
one shape, which is what it is told by.

Shapes: L layers, E experts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .forecast import POPULARITY, Learned
from .geometry import MoEGeometry
from .reading import parse_json
from .scheduler import Scheduler
from .traces.archive import read_arrays, write_arrays

FORMAT = "hetsched-learned/1"
MOST_BYTES = 2 << 30  # of all sums
_WHAT = "learned statistics (.npz)"


@dataclass(frozen=True)
class Memory:
    """Sums by name: "popularity_LE", tokens per expert, and "<forecaster>/<name>"; `shape` tells the model."""

    shape: str
    sums: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def after(self, scheduler: Scheduler) -> Memory:
        """With what a run has learned that began with this: its forecaster's sums contain those it was given."""
        known_LE = scheduler.tokens_LE.astype(float)
        if scheduler.frequency_LE is not None:
            known_LE += scheduler.frequency_LE
        return replace(self, sums={**self.sums, **_sums_of(scheduler.forecaster), POPULARITY: known_LE})


def shape_of(geometry: MoEGeometry) -> str:
    """What a model is told by: its names are many, and weights are not looked at."""
    layers, experts = geometry.num_layers, geometry.num_experts
    return f"{layers} layers of {experts} experts, top {geometry.top_k}, {geometry.hidden} x {geometry.ffn}"


def save(path: str | Path, memory: Memory) -> None:
    """Write the file: a reader sees the old one or the whole new one. Raises InputError where it cannot be written."""
    meta = np.array(json.dumps({"format": FORMAT, "shape": memory.shape}))
    write_arrays(path, {"meta": meta, **memory.sums}, compress=True)


def load(path: str | Path, geometry: MoEGeometry) -> Memory:
    """What was learned of this model; nothing where there is no file.

    Raises InputError for what is no such file, for pickles, for values that no sum has, and for another model's.
    """
    shape = shape_of(geometry)
    if not Path(path).exists():
        return Memory(shape)
    arrays = read_arrays(path, what=_WHAT)
    try:
        meta = parse_json(str(arrays.pop("meta")))
        written, told = meta["format"], meta["shape"]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not {_WHAT}, or damaged: {error}; name another file, or a new one") from error
    if written != FORMAT:
        raise InputError(f"{path}: its format is {str(written)[:40]!r}, this version reads {FORMAT!r}; name a new file")
    if told != shape:
        raise InputError(f"{path}: was learned of a model with {told}, this one has {shape}; name another file")
    if sum(array.nbytes for array in arrays.values()) > MOST_BYTES:
        raise InputError(f"{path}: its sums take more than {MOST_BYTES:,} bytes, as no run's do; name another file")
    _check(path, arrays, (geometry.num_layers, geometry.num_experts))
    return Memory(shape, {name: np.array(array) for name, array in arrays.items()})


def _check(path: str | Path, arrays: Learned, shape: tuple[int, int]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(f"{path}: {name} is damaged: not all of it are finite numbers; name another file")
    popular_LE = arrays.get(POPULARITY)
    if popular_LE is None or popular_LE.shape != shape or popular_LE.min() < 0:
        raise InputError(f"{path}: {POPULARITY} is missing or damaged; name another file, or a new one")


def _sums_of(forecaster: Any) -> Learned:
    if not hasattr(forecaster, "learned"):
        return {}
    return {f"{forecaster.name}/{name}": array for name, array in forecaster.learned().items()}
