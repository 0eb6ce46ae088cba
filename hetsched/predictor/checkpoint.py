"""Unfinished training, beside the file to be: all that a killed run needs to end as if it had not been killed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..errors import InputError
from .store import load, save

Arrays = dict[str, npt.NDArray[Any]]
MOMENTS = ("exp_avg", "exp_avg_sq")


def checkpoint_path(path: Path) -> Path:
    """Where the unfinished work on a predictor lies."""
    return path.with_name(f"{path.name}.partial")


def numbers_of(net: torch.nn.Module) -> Arrays:
    """A copy of a network's parameters, by name."""
    return {name: parameter.detach().numpy().copy() for name, parameter in net.named_parameters()}


def write_checkpoint(
    path: Path, meta: Mapping[str, Any], net: torch.nn.Module, optimiser: torch.optim.Optimizer, best: Arrays
) -> None:
    """Replace the checkpoint: `meta` with the place in the training, parameters, AdamW's moments, the best so far."""
    arrays = {f"now.{name}": array for name, array in numbers_of(net).items()}
    arrays |= {f"best.{name}": array for name, array in best.items()}
    for name, parameter in net.named_parameters():
        for moment in MOMENTS:
            held = optimiser.state.get(parameter, {}).get(moment, torch.zeros_like(parameter))
            arrays[f"{moment}.{name}"] = held.numpy()
    save(checkpoint_path(path), meta, arrays)


def read_checkpoint(
    path: Path, identity: Mapping[str, Any], net: torch.nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[dict[str, Any], Arrays] | None:
    """The place in the training and the best numbers, with net and optimiser set to where they were; None: no work.

    Raises InputError for work of other arguments, or damaged.
    """
    place = checkpoint_path(path)
    if not place.exists():
        return None
    stored = load(place)
    if {key: stored.meta.get(key) for key in identity} != dict(identity):
        raise InputError(
            f"{place} holds unfinished work of other arguments; repeat those, choose another --out, or delete it"
        )
    try:
        unfinished = dict(stored.meta["unfinished"])
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                parameter.copy_(_tensor(stored.arrays[f"now.{name}"], parameter))
                state = {m: _tensor(stored.arrays[f"{m}.{name}"], parameter) for m in MOMENTS}
                optimiser.state[parameter] = {"step": torch.tensor(float(unfinished["steps"])), **state}
        best = {name: stored.arrays[f"best.{name}"] for name, _ in net.named_parameters()} if _has_best(stored) else {}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{place}, unfinished work, is damaged: {error!s:.100}; delete it and begin anew") from error
    return unfinished, best


def _has_best(stored: Any) -> bool:
    return any(name.startswith("best.") for name in stored.arrays)


def _tensor(array: npt.NDArray[Any], like: torch.Tensor) -> torch.Tensor:
    if array.shape != tuple(like.shape) or array.dtype != np.float32:
        raise ValueError(f"{array.dtype} {array.shape} in place of float32 {tuple(like.shape)}")
    return torch.from_numpy(array.copy())
