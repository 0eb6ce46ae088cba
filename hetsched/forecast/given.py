"""What is known before the first step, as it is handed over: tokens per expert of a calibration."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry import MoEGeometry


def check_frequency(frequency_LE: Any, geometry: MoEGeometry) -> None:
    """Raise InputError for what holds no tokens per expert of this model."""
    if frequency_LE is None:
        return
    shape = geometry.num_layers, geometry.num_experts
    try:
        counts_LE = np.asarray(frequency_LE, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"frequency_LE holds no numbers: {error}; give tokens per expert {list(shape)}") from error
    if counts_LE.shape != shape or not np.isfinite(counts_LE).all() or (counts_LE < 0).any():
        said = f"of shape {list(counts_LE.shape)}" if counts_LE.shape != shape else "with numbers that are no counts"
        raise InputError(f"frequency_LE is {said}; give tokens per expert {list(shape)}, none below 0")
