"""What share of the host store a device cannot copy from directly, and why."""

from __future__ import annotations

from typing import Any

import torch

from ..accelerators.base import Accelerator
from ..accelerators.host_memory import HostMemory
from .host_store import HostStore


def pinning_stats(store: HostStore, accelerator: Accelerator) -> dict[str, Any]:
    """`pageable_share` of the experts' host memory, 0 to 1, and `pageable_reason`, "" where nothing is pageable.

    Copies from pageable memory go through pinned chunks, with one CPU thread's help.
    """
    total_bytes = store.copied_bytes
    if isinstance(accelerator, HostMemory) or not total_bytes:
        reason = f"{accelerator.name}: no device copies from host memory" if total_bytes else "no expert is stored yet"
        return {"pageable_share": 1.0, "pageable_reason": reason}
    share = 1 - store.pinned_bytes(getattr(accelerator, "is_pinned", torch.Tensor.is_pinned)) / total_bytes
    reason = "; ".join(accelerator.notes) or "the device does not say" if share else ""
    return {"pageable_share": share, "pageable_reason": reason}
