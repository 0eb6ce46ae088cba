"""The shape of a model, what its experts are stored as, and the bytes that follow; from a config or a GGUF file."""

from .checks import MAX_EXPERTS, MAX_LAYERS, MAX_PARAMS, MAX_WIDTH
from .config import from_config, layers_with_experts, require_sane_sizes, text_section
from .fields import whole
from .shape import MoEGeometry
from .stored import BITS_ALONE, WEIGHT_BITS, formats_named, is_installed_format, stored_bytes, stored_name

__all__ = [
    "BITS_ALONE",
    "MAX_EXPERTS",
    "MAX_LAYERS",
    "MAX_PARAMS",
    "MAX_WIDTH",
    "WEIGHT_BITS",
    "MoEGeometry",
    "formats_named",
    "from_config",
    "is_installed_format",
    "layers_with_experts",
    "require_sane_sizes",
    "stored_bytes",
    "stored_name",
    "text_section",
    "whole",
]
