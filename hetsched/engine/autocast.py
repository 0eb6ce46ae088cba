"""torch.autocast carried from the caller's thread into the lanes, which do not inherit it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def cast_dtype(device: torch.device) -> torch.dtype | None:
    """What torch.autocast casts products on this device to in the calling thread; None where it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def casting(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """The same casts in another thread. Without autocast's cache: an expert's weights are used once a layer."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype, cache_enabled=False)
