"""What a file stores a model's weights as: one rule for each kind of file, for experts, the dense part and the head.

llama.cpp's `llama_tensor_get_type` as of 2026, without its exceptions for single tensors. Sizes are bits a weight,
scales included.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UnknownNameError
from ..geometry import WEIGHT_BITS

_Q4_MIX = (WEIGHT_BITS["q4_k"] + WEIGHT_BITS["q4_k/q6_k"]) / 2


@dataclass(frozen=True)
class FileWeights:
    """`experts`: format of a layer's experts; `experts_more`: of those layers that get more bits, half of them.

    `dense_bits`: attention, shared experts, layers without experts. `router_bits`: the routers. `head_bits`: the output
    matrix. `embedding_bits`: the input embedding, of which a token reads one row. `why`: for people.
    """

    name: str
    experts: str
    dense_bits: float
    router_bits: float
    head_bits: float
    embedding_bits: float
    why: str
    experts_more: str = ""

    def formats_L(self, layers: int) -> list[str]:
        """Format of the experts of each of L layers."""
        return [
            self.experts_more if self.experts_more and _more_bits(l, layers) else self.experts for l in range(layers)
        ]


def _more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's `use_more_bits`: the first and last eighth, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _alike(name: str, format_name: str, why: str) -> FileWeights:
    bits = WEIGHT_BITS[format_name]
    return FileWeights(name, format_name, bits, 32.0, bits, bits, why)


FILES = {
    "q4_k_m": FileWeights(
        "q4_k_m",
        "q4_k",
        _Q4_MIX,
        32.0,
        WEIGHT_BITS["q6_k"],
        WEIGHT_BITS["q4_k"],
        "q4_k; half of the layers' down and value matrices q6_k, which is the same mix inside experts and out; head "
        "q6_k; routers are never quantised",
        experts_more="q4_k/q6_k",
    ),
    "q8_0": _alike("q8_0", "q8_0", "everything q8_0 but the routers, which are fp32"),
    "mxfp4": FileWeights(
        "mxfp4",
        "gguf-mxfp4",
        WEIGHT_BITS["q8_0"],
        32.0,
        WEIGHT_BITS["q8_0"],
        WEIGHT_BITS["q8_0"],
        "experts as published, in mxfp4; llama.cpp's converter stores the rest in q8_0",
    ),
    "mxfp4_f16": FileWeights(
        "mxfp4_f16",
        "gguf-mxfp4",
        16.0,
        32.0,
        16.0,
        16.0,
        "experts as published, in mxfp4, the rest too, in 16 bits: files called F16 or BF16",
    ),
    "bf16": FileWeights("bf16", "bf16", 16.0, 16.0, 16.0, 16.0, "everything as published, in 16 bits"),
}


def file_named(name: str) -> FileWeights:
    """The rule of a kind of file, whatever the name's case. Raises UnknownNameError, which lists those known."""
    found = FILES.get(name.lower())
    if found is None:
        raise UnknownNameError("kind of file", name, FILES)
    return found


def sixteen_bits_beside(experts: str) -> FileWeights:
    """What hetsched itself holds: experts as they are stored, all else in 16 bits."""
    return FileWeights(experts, experts, 16.0, 16.0, 16.0, 16.0, "experts as stored, all other weights in 16 bits")
