"""PlannedModel: what is known of a model without its weights, and the sizes that a format and an engine make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..estimate import FILES, Engine, FileWeights, Subject
from ..estimate.subject import subject_with
from ..geometry import BITS_ALONE, WEIGHT_BITS, MoEGeometry, stored_name
from ..memory.context import ContextShape, context_shape
from ..memory.plan import element_bytes

LLAMA_CPP = "llama.cpp"
FP32_BITS = 32.0  # of routers, which llama.cpp never quantises


@dataclass(frozen=True)
class PlannedModel:
    """`published`: the geometry as its authors, or its file, store it. `layers`: numbers of those with experts, of all.

    `rest_bytes`: of a file that was seen, bytes of its dense part, head and embedding by these names.
    """

    published: MoEGeometry
    config: Any
    shape: ContextShape
    layers: tuple[int, ...]
    rest_bytes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, published: MoEGeometry, config: Any, layers: tuple[int, ...], rest_bytes: Mapping[str, int] | None = None
    ) -> PlannedModel:
        """From a geometry and the config that it came from."""
        if len(layers) != published.num_layers:
            layers = tuple(range(published.num_layers))
        return cls(published, config, context_shape(config), layers, rest_bytes or {})

    def subject(self, engine: Engine, format_name: str | None) -> Subject:
        """The model as `engine` holds it, with its experts in a format; None: as published.

        A format is one of hetsched's, or a kind of GGUF file that has several, such as q4_k_m. hetsched keeps all but
        experts in 16 bits, llama.cpp as such a file has it. Raises InputError for a format that is none, or that cannot
        store such experts.
        """
        file = _file(self.published.dtype if format_name is None else format_name, engine)
        if engine.name != LLAMA_CPP:
            bits = 8.0 * element_bytes(self.published)
            file = replace(file, dense_bits=bits, router_bits=bits, head_bits=bits, embedding_bits=bits)
        if format_name is None:  # sizes that were seen stay
            file = replace(file, experts=self.published.dtype, experts_more="")
        subject = subject_with(self.published, self.shape, self.config, file)
        if engine.name == LLAMA_CPP and format_name is None and self.rest_bytes:
            rest: dict[str, Any] = dict(self.rest_bytes)
            return replace(subject, **rest)
        return replace(subject, kv_element_bytes=2 if engine.name == LLAMA_CPP else element_bytes(self.published))


def _file(name: str, engine: Engine) -> FileWeights:
    """The rule that a name stands for."""
    known = FILES.get(name.lower())
    if known is not None and (engine.name == LLAMA_CPP or known.experts_more):
        return known
    stored = stored_name(name, FILES)
    bits = WEIGHT_BITS[stored]
    why = "a width alone" if stored in BITS_ALONE else f"everything {stored} but the routers, which are fp32"
    return FileWeights(stored, stored, bits, FP32_BITS, bits, bits, why)
