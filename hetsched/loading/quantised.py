"""Checkpoints whose weights are packed: MXFP4 (gpt-oss) is unpacked on the way, anything else is refused."""

from __future__ import annotations

import copy
from typing import Any

from transformers import Mxfp4Config
from transformers.quantizers import AutoHfQuantizer

from ..errors import InputError


def quantizer_for(config: Any) -> Any:
    """transformers' quantizer that unpacks a checkpoint, None for a plain one. Raises InputError for other methods."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    method = settings.get("quant_method") if isinstance(settings, dict) else settings.quant_method
    if str(getattr(method, "value", method)) != "mxfp4":
        raise InputError(f"the checkpoint is quantised ({method}), and only plain and mxfp4 weights can be scheduled")
    return AutoHfQuantizer.from_config(Mxfp4Config(dequantize=True), pre_quantized=True)


def plain_config(config: Any) -> Any:
    """The config of the same model unpacked."""
    plain = copy.deepcopy(config)
    if getattr(plain, "quantization_config", None) is not None:
        del plain.quantization_config
    return plain
